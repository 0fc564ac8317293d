// The functions of torch's stable ABI that the CPU operators call, and no others: tensors that are contiguous and on
// the CPU, the registration of kernels, strings, parallel_for. Torch's own headers declare them.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

#include "tensor.h"

using namespace without_torch;

struct TorchLibraryOpaque {};
struct StringOpaque {
  std::string text;
};
struct StableListOpaque {
  std::vector<StableIValue> items;
};

namespace without_torch {

std::map<std::string, BoxedFunction>& operators() {
  static std::map<std::string, BoxedFunction> all;
  return all;
}

static int64_t threads_in_use = 1;
static thread_local bool in_parallel = false;

void set_threads(int64_t threads) { threads_in_use = std::max<int64_t>(1, threads); }

static AtenTensorHandle reshaped(AtenTensorOpaque tensor, const std::vector<StableIValue>& sizes) {
  tensor.sizes.assign(sizes.begin(), sizes.end());
  return new AtenTensorOpaque(std::move(tensor));
}

// The part with one index of the first dimension.
static AtenTensorHandle selected(AtenTensorOpaque tensor, int64_t index) {
  tensor.sizes.erase(tensor.sizes.begin());
  tensor.offset += index * tensor.bytes();
  return new AtenTensorOpaque(std::move(tensor));
}

}  // namespace without_torch

extern "C" {

// ---- types and devices ---------------------------------------------------------------------------------------------

// Types that no operator takes have numbers as well, for torch's headers compare with all of them.
#define DTYPE(name, number) \
  int32_t name() { return number; }
DTYPE(aoti_torch_dtype_uint8, kUInt8)
DTYPE(aoti_torch_dtype_int8, 1)
DTYPE(aoti_torch_dtype_int16, 2)
DTYPE(aoti_torch_dtype_int32, 3)
DTYPE(aoti_torch_dtype_int64, kInt64)
DTYPE(aoti_torch_dtype_float16, kFloat16)
DTYPE(aoti_torch_dtype_float32, kFloat32)
DTYPE(aoti_torch_dtype_float64, kFloat64)
DTYPE(aoti_torch_dtype_complex32, 8)
DTYPE(aoti_torch_dtype_complex64, 9)
DTYPE(aoti_torch_dtype_complex128, 10)
DTYPE(aoti_torch_dtype_bool, 11)
DTYPE(aoti_torch_dtype_bfloat16, kBFloat16)
DTYPE(aoti_torch_dtype_float8_e5m2, 23)
DTYPE(aoti_torch_dtype_float8_e4m3fn, 24)
DTYPE(aoti_torch_dtype_float8_e5m2fnuz, 25)
DTYPE(aoti_torch_dtype_float8_e4m3fnuz, 26)
DTYPE(aoti_torch_dtype_uint16, 27)
DTYPE(aoti_torch_dtype_uint32, 28)
DTYPE(aoti_torch_dtype_uint64, 29)
DTYPE(torch_dtype_float8_e8m0fnu, 44)
DTYPE(torch_dtype_float4_e2m1fn_x2, 45)
#undef DTYPE

size_t aoti_torch_dtype_element_size(int32_t dtype) { return size_t(element_size(dtype)); }
uint64_t aoti_torch_abi_version() { return TORCH_ABI_VERSION; }

// ---- tensors -------------------------------------------------------------------------------------------------------

AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t*, int32_t dtype, int32_t,
                                        int32_t, AtenTensorHandle* made) {
  *made = new AtenTensorOpaque(dtype, std::vector<int64_t>(sizes, sizes + dim));
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle tensor, AtenTensorHandle* same) {
  *same = new AtenTensorOpaque(*tensor);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  if (!tensor->array->guards_are_whole()) {
    std::fprintf(stderr, "an operator wrote outside of a tensor of %zu bytes\n", tensor->array->size());
    std::abort();
  }
  delete tensor;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) {
  *type = 0;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) {
  *index = -1;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* dim) {
  *dim = int64_t(tensor->sizes.size());
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_size(AtenTensorHandle tensor, int64_t dim, int64_t* size) {
  const auto count = int64_t(tensor->sizes.size());
  if (dim < -count || dim >= count) return AOTI_TORCH_FAILURE;
  *size = tensor->sizes[size_t(dim < 0 ? dim + count : dim)];
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes) {
  *sizes = tensor->sizes.data();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_numel(AtenTensorHandle tensor, int64_t* numel) {
  *numel = tensor->numel();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype) {
  *dtype = tensor->dtype;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle, bool* contiguous) {
  *contiguous = true;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_get_const_data_ptr(AtenTensorHandle tensor, const void** data) {
  *data = tensor->data();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** data) {
  *data = tensor->data();
  return AOTI_TORCH_SUCCESS;
}

// ---- strings -------------------------------------------------------------------------------------------------------

AOTITorchError torch_new_string_handle(const char* data, size_t length, StringHandle* handle) {
  *handle = new StringOpaque{std::string(data, length)};
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_delete_string(StringHandle handle) {
  delete handle;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_string_length(StringHandle handle, size_t* length) {
  *length = handle->text.size();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_string_c_str(StringHandle handle, const char** data) {
  *data = handle->text.c_str();
  return AOTI_TORCH_SUCCESS;
}

// ---- threads -------------------------------------------------------------------------------------------------------

// Cut as at::parallel_for does: into equal parts, one a thread, none smaller than the grain.
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc function, void* context) {
  if (begin >= end) return AOTI_TORCH_SUCCESS;
  const int64_t most = (end - begin + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
  const int64_t threads = in_parallel ? 1 : std::min(threads_in_use, most);
  const int64_t part = (end - begin + threads - 1) / threads;
  std::vector<std::thread> others;
  for (int64_t from = begin + part; from < end; from += part)
    others.emplace_back([=] {
      in_parallel = true;
      function(from, std::min(from + part, end), context);
    });
  const bool before = std::exchange(in_parallel, true);
  function(begin, std::min(begin + part, end), context);
  in_parallel = before;
  for (auto& other : others) other.join();
  return AOTI_TORCH_SUCCESS;
}

// ---- registration --------------------------------------------------------------------------------------------------

AOTITorchError aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t,
                                            TorchLibraryHandle* library) {
  *library = new TorchLibraryOpaque;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle library) {
  delete library;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, BoxedFunction function, uint64_t) {
  operators()[name] = function;
  return AOTI_TORCH_SUCCESS;
}

// ---- operators of torch's own ----------------------------------------------------------------------------------------

AOTITorchError torch_new_list_reserve_size(size_t, StableListHandle* list) {
  *list = new StableListOpaque;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_list_push_back(StableListHandle list, StableIValue item) {
  list->items.push_back(item);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_delete_list(StableListHandle list) {
  delete list;
  return AOTI_TORCH_SUCCESS;
}

// Named by what torch's headers pass on; no tensor here is other than contiguous.
int32_t aoti_torch_memory_format_contiguous_format() { return 0; }

// Takes the arguments from the stack, as torch does.
AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  namespace boxed = torch::stable::detail;
  const auto self = boxed::to<torch::stable::Tensor>(stack[0]);
  if (std::string(name) == "aten::reshape") {
    const auto list = boxed::to<StableListHandle>(stack[1]);
    stack[0] = boxed::from(reshaped(*self.get(), list->items));
    return torch_delete_list(list);
  }
  if (std::string(name) == "aten::select" && boxed::to<int64_t>(stack[1]) == 0) {
    stack[0] = boxed::from(selected(*self.get(), boxed::to<int64_t>(stack[2])));
    return AOTI_TORCH_SUCCESS;
  }
  std::fprintf(stderr, "%s is not among the operators of torch that are here\n", name);
  std::abort();
}
}
