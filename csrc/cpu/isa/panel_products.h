// The three products of the projection family by the register tiles of tile.h, for one block of rows.
#pragma once

#include "basis_kernels.h"
#include "block.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

template <class T>
class PanelProducts {
 public:
  static constexpr int R = kStrip<T>;
  static constexpr int64_t kStrips = 256 / R;        // of a block, at most
  static constexpr int64_t kColumns = kTileColumns;  // that `each` computes at once, at most
  static constexpr int64_t kBehind = 0;              // columns behind the last that `coefficients` may write

  PanelProducts(const Bases<T>& bases, const Rows& /*z*/, const Block<T>& block, bool /*backward*/)
      : bases_(bases), block_(block) {}

  // Bases after which a panel ends with a basis.
  static int64_t together(const Bases<T>& bases) { return PanelCut(bases.K * bases.d, bases.d).groups_together(); }

  // Bases of about 256 columns that begin and end where a panel does.
  static int64_t backward_chunk(const Bases<T>& bases) {
    const int64_t each = together(bases);
    return std::max<int64_t>(1, 256 / (each * bases.d)) * each;
  }

  // Of a block that was loaded: its rows in whatever layouts the products take beside the block's own.
  void load(int64_t /*end*/) {}
  void load_rows() {}

  // Coefficients S̃ᵀz of strip s for columns [first, end), f(c, columns) after each `columns` of them in out.
  template <class F>
  void each(int64_t s, int64_t first, int64_t end, T* out, const F& f) {
    const PanelCut cut(bases_.K * bases_.d, bases_.d);
    for (int64_t c = first; c < end;) {
      const int64_t columns = cut.width(c);
      panel_product<T>(block_.strip(s), bases_.panels + c * bases_.p, columns, bases_.p, out, false);
      f(c, columns);
      c += columns;
    }
  }

  // The same for all of them, to out [columns][R].
  void coefficients(int64_t s, int64_t first, int64_t columns, T* out) {
    const PanelCut cut(bases_.K * bases_.d, bases_.d);
    for (int64_t c = first; c < first + columns;) {
      const int64_t width = cut.width(c);
      panel_product<T>(block_.strip(s), bases_.panels + c * bases_.p, width, bases_.p, out + (c - first) * R, false);
      c += width;
    }
  }

  // Adds S̃ diag(scale) times the coefficients of columns [first, first + columns), which lie `stride` apart from strip
  // to strip, to dz [strips][p][R].
  void add_rows(const T* coefficients, int64_t stride, int64_t first, int64_t columns, T* dz) {
    const PanelCut cut(bases_.p, bases_.p);
    const int64_t length = bases_.K * bases_.d;
    for (int64_t s = 0; s < block_.strips; ++s)
      for (int64_t j = 0; j < bases_.p;) {
        const int64_t width = cut.width(j);
        panel_product<T>(coefficients + s * stride, bases_.back_panels + j * length + first * width, width, columns,
                         dz + (s * bases_.p + j) * R, true);
        j += width;
      }
  }

  // Adds Σ coefficient · row over the block to sums [columns, bases.stride], or puts it there.
  void add_bases(const T* coefficients, int64_t stride, int64_t columns, T* sums, bool add) {
    outer_product<T>(
        coefficients, stride, columns, block_.rows, bases_.stride, block_.strips, sums,
        [](int64_t) { return int64_t(0); }, add);
  }

 private:
  const Bases<T>& bases_;
  const Block<T>& block_;
};

}  // namespace desc_ext::cpu::DESC_EXT_ISA
