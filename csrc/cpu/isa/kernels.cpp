// All CPU kernels for one instruction set: compiled once for each, with DESC_EXT_ISA naming it. Nothing of torch and
// no function with external linkage but the two tables may be compiled here: the linker is free to keep this copy
// of a shared inline function for the whole library, on machines without the instruction set.
#include "assignment_kernels.h"
#include "basis_kernels.h"
#include "gram_kernels.h"
#include "projection_kernels.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

template <class T>
static constexpr Table<T> make_table() {
  return {kLanes<T>,           pack_panels<T>,        pack_transposed<T>, load_rows<T>, store_row<T>,         rotate_basis<T>,
          projection_forward<T>, projection_backward<T>, basis_gradient<T>, student_t_forward<T>, student_t_backward<T>,
          gram<T>,             rows_times<T>};
}

extern const Table<float> float_kernels;
extern const Table<double> double_kernels;
const Table<float> float_kernels = make_table<float>();
const Table<double> double_kernels = make_table<double>();

}  // namespace desc_ext::cpu::DESC_EXT_ISA
