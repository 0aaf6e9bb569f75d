// Quantised rows in the order in which the fast integer kernels read them. Internal to kernels/.
#ifndef OCTET_KERNELS_PREPARED_ROWS_H_
#define OCTET_KERNELS_PREPARED_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

namespace octet {

// The view of `w` that a level's integer kernels take, and which of them serves it.
struct FastInt {
  FastInt(const KernelTable& table, const PackedWeights& w);

  IntMatrix matrix;
  void (*panels)(const IntMatrix& w, const IntTile& tile, size_t panel, size_t count, float* out);
  IntBias bias;  // of the codes as the kernel multiplies them
};

// Rows for matrices of one format and k, in tiles of kTileRows. Memory is the scratch's.
class PreparedRows {
 public:
  PreparedRows(Scratch& scratch, const FastInt& fast, size_t activation_group, size_t rows);

  size_t rows() const { return rows_; }
  size_t units() const { return units_; }  // of a row
  size_t tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }
  IntTile Tile(size_t index) const;
  // Fills rows of tile `index`; row(i) gives the int8 row and the scales of row i of the batch.
  template <typename RowFn>
  void Fill(const KernelTable& table, size_t index, RowFn&& row) const {
    const IntTile tile = Tile(index);
    for (size_t r = 0; r < tile.rows; ++r) {
      const auto [q, scales] = row(index * kTileRows + r);
      table.prepare_row(q, scales, units_, units_per_scale_, bias_rule_, r, tile);
    }
  }
  // Writes `count` units from unit `first` on, of row r of a tile; one scale an activation group.
  void FillUnits(const KernelTable& table, const IntTile& tile, size_t r, size_t first,
                 size_t count, const int8_t* q, const float* scales) const;

 private:
  size_t rows_;
  size_t units_;
  size_t units_per_scale_;
  IntBias bias_rule_;
  int8_t* q_;
  float* scales_;
  int32_t* bias_;
  float* sums_;
};

}  // namespace octet

#endif  // OCTET_KERNELS_PREPARED_ROWS_H_
