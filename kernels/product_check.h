// Exact check of an integer product (the checksum columns of Huang and Abraham, 1984). All integers
// that become the outputs of a row add up to the sum over inputs of activation times the input's
// column, the sum of what all outputs multiply it with: modulo 2^32 there is no rounding, so one
// wrong integer always shows. Scales and minima, which are floats, are not part of it. Internal to
// kernels/; kernels.h has what others use.
#ifndef OCTET_KERNELS_PRODUCT_CHECK_H_
#define OCTET_KERNELS_PRODUCT_CHECK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "kernels/prepared_rows.h"

namespace octet {

// What the rows of one product came to. Memory is the scratch's.
class ProductCheck {
 public:
  // `column` as MakeCheckColumn writes it.
  ProductCheck(Scratch& scratch, const uint32_t* column, size_t rows)
      : column_(column), rows_(rows), sums_(scratch.Alloc<uint32_t>(rows)) {
    for (size_t r = 0; r < rows; ++r) sums_[r] = 0;
  }

  // Adds sums of some outputs to those of rows [first, first + count). Any thread.
  void Add(size_t first, size_t count, const uint32_t* sums) {
    for (size_t i = 0; i < count; ++i) {
      std::atomic_ref<uint32_t>(sums_[first + i]).fetch_add(sums[i], std::memory_order_relaxed);
    }
  }
  // True where every row came to what its activations ask for: `units` units of 32, each `stride`
  // bytes after the other, from q(row) on. When all threads are done.
  template <typename Rows>
  bool Fits(const KernelTable* table, size_t units, Rows&& q) const {
    for (size_t r = 0; r < rows_; ++r) {
      const auto [from, stride] = q(r);
      if (ColumnDot(table, from, units, stride) != sums_[r]) return false;
    }
    return true;
  }
  bool Fits(const KernelTable& table, const PreparedRows& x) const;
  bool Fits(const KernelTable* table, const QuantizedRows& x) const;

 private:
  uint32_t ColumnDot(const KernelTable* table, const int8_t* q, size_t units, size_t stride) const;

  const uint32_t* column_;
  size_t rows_;
  uint32_t* sums_;
};

// Those of the three products of an expert.
struct ExpertChecks {
  ProductCheck gate;
  ProductCheck up;
  ProductCheck down;
};

// The check of a product in which somebody is interested, else null.
inline ProductCheck* CheckOf(ExpertChecks* checks, ProductCheck ExpertChecks::*product) {
  return checks == nullptr ? nullptr : &(checks->*product);
}

// Where a kernel adds up what it makes of a tile, for as long as this lives.
template <typename Tile>
class TileCheck {
 public:
  // Sets checks in `tile`, whose rows begin with `first`, where `check` is not null.
  TileCheck(ProductCheck* check, size_t first, Tile* tile)
      : check_(check), first_(first), rows_(tile->rows) {
    if (check_ != nullptr) tile->checks = sums_;
  }
  ~TileCheck() {
    if (check_ != nullptr) check_->Add(first_, rows_, sums_);
  }
  TileCheck(const TileCheck&) = delete;
  TileCheck& operator=(const TileCheck&) = delete;

 private:
  ProductCheck* check_;
  size_t first_;
  size_t rows_;
  uint32_t sums_[kTileRows] = {};
};

}  // namespace octet

#endif  // OCTET_KERNELS_PRODUCT_CHECK_H_
