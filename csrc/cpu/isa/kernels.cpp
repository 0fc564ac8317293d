// All CPU kernels for one instruction set: compiled once for each, with DESC_EXT_ISA naming it. Nothing of torch and
// nothing with external linkage but the tables may be compiled here: the linker is free to keep this copy
// of a shared inline function for the whole library, on machines without the instruction set.
#include "assignment_kernels.h"
#include "basis_kernels.h"
#include "gram_kernels.h"
#include "pairwise_kernels.h"
#include "projection_kernels.h"
#include "self_expression_kernels.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

template <class T>
static constexpr Table<T> make_table() {
  return {kLanes<T>,
          pack_panels<T>,
          pack_transposed<T>,
          load_rows<T>,
          store_row<T>,
          one_basis_a_panel,
          prepare_bases<T>,
          projection_forward<T>,
          projection_backward<T>,
          own_basis_backward<T>,
          rows_to_columns<T>,
          columns_to_rows<T>,
          basis_gram<T>,
          basis_product<T>,
          basis_gradient<T>,
          student_t_forward<T>,
          student_t_backward<T>,
          gram<T>,
          rows_times<T>};
}

template <class T>
static constexpr PairTable<T> make_pair_table() {
  return {kStrip<T>,
          pack_strips<T>,
          unpack_strip<T>,
          select<T>,
          collaborate<T>,
          collaborate_backward<T>,
          laplacian<T>,
          laplacian_backward<T>,
          info_nce<T>,
          info_nce_backward<T>,
          self_expression<T>,
          self_expression_coef<T>,
          self_expression_rows<T>,
          absolute_sums<T>,
          signed_sums<T>};
}

extern const Table<float> float_kernels;
extern const Table<double> double_kernels;
extern const PairTable<float> float_pair_kernels;
extern const PairTable<double> double_pair_kernels;
const Table<float> float_kernels = make_table<float>();
const Table<double> double_kernels = make_table<double>();
const PairTable<float> float_pair_kernels = make_pair_table<float>();
const PairTable<double> double_pair_kernels = make_pair_table<double>();

}  // namespace desc_ext::cpu::DESC_EXT_ISA
