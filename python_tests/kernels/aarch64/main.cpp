// The CPU operators as a program without torch: reads calls from standard input, writes results to standard output,
// until the input ends. All numbers are little-endian int64 or double; python_tests/helpers/aarch64.py is the other
// side.
//
//   call     text name, threads, number of results, number of arguments, arguments
//   argument one letter and its value: T tensor, I int, B bool, D float, S text, O tensor that
//            may be left out, N one that is
//   tensor   dtype, number of dimensions, sizes, elements
//   reply    0 and text of the error, or 1 and the results, each T or S and its value
#include <torch/csrc/stable/library.h>

#include <cstdio>
#include <stdexcept>

#include "tensor.h"

using namespace without_torch;
using torch::stable::Tensor;
namespace boxed = torch::stable::detail;  // how values lie on the stack of a call

static void read(void* to_where, size_t bytes) {
  if (bytes && std::fread(to_where, 1, bytes, stdin) != bytes) throw std::runtime_error("the input ends within a call");
}

static void write(const void* what, size_t bytes) {
  if (bytes && std::fwrite(what, 1, bytes, stdout) != bytes) throw std::runtime_error("the output is closed");
}

template <class T>
static T read_number() {
  T number;
  read(&number, sizeof number);
  return number;
}

static void write_number(int64_t number) { write(&number, sizeof number); }

static std::string read_text() {
  std::string text(size_t(read_number<int64_t>()), ' ');
  read(text.data(), text.size());
  return text;
}

static void write_text(const std::string& text) {
  write_number(int64_t(text.size()));
  write(text.data(), text.size());
}

static Tensor read_tensor() {
  const auto dtype = int32_t(read_number<int64_t>());
  std::vector<int64_t> sizes(size_t(read_number<int64_t>()));
  for (int64_t& size : sizes) size = read_number<int64_t>();
  auto made = std::make_unique<AtenTensorOpaque>(dtype, std::move(sizes));
  read(made->data(), size_t(made->bytes()));
  return Tensor(made.release());
}

static void write_tensor(const Tensor& tensor) {
  write_number(tensor.get()->dtype);
  write_number(int64_t(tensor.get()->sizes.size()));
  for (const int64_t size : tensor.get()->sizes) write_number(size);
  write(tensor.get()->data(), size_t(tensor.get()->bytes()));
}

static StableIValue read_argument() {
  const char kind = read_number<char>();
  switch (kind) {
    case 'T': return boxed::from(read_tensor());
    case 'I': return boxed::from(read_number<int64_t>());
    case 'B': return boxed::from(read_number<int64_t>() != 0);
    case 'D': return boxed::from(read_number<double>());
    case 'S': return boxed::from(read_text());
    case 'N': return boxed::from(std::nullopt);
    case 'O': return boxed::from(std::optional<Tensor>(read_tensor()));
    default: throw std::runtime_error(std::string("an argument of the unknown kind ") + kind);
  }
}

// Each operator returns tensors, but build_info, which returns text.
static void write_result(const std::string& name, StableIValue value) {
  if (name == "build_info") {
    write("S", 1), write_text(boxed::to<std::string>(value));
  } else {
    write("T", 1), write_tensor(boxed::to<Tensor>(value));
  }
}

static void answer(const std::string& name) {
  set_threads(read_number<int64_t>());
  const auto results = size_t(read_number<int64_t>()), count = size_t(read_number<int64_t>());
  std::vector<StableIValue> stack(std::max(results, count));
  for (size_t i = 0; i < count; ++i) stack[i] = read_argument();
  const auto found = operators().find(name);
  try {
    if (found == operators().end()) throw std::runtime_error("no operator of the name " + name);
    found->second(stack.data(), count, results);
  } catch (const std::exception& error) {
    write_number(0), write_text(error.what());
    return;
  }
  write_number(1);
  for (size_t i = 0; i < results; ++i) write_result(name, stack[i]);
}

int main() {
  for (int next; (next = std::getc(stdin)) != EOF;) {
    std::ungetc(next, stdin);
    answer(read_text());
    std::fflush(stdout);
  }
}
