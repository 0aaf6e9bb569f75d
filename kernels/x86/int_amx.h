// Integer products with AMX tiles: a unit of a panel is a tile of eight rows of 16 outputs times
// four elements as it lies there (nibbles are unpacked first), the prepared activations of 16 rows
// are another, and their product is the exact dots. Scaling is the AVX-512 kernels', so the bits
// are theirs. Fewer rows than kTileRows are left to those: their products wait for weights, which
// they fetch ahead. Included by level_avx512.cc alone.
#ifndef OCTET_KERNELS_X86_INT_AMX_H_
#define OCTET_KERNELS_X86_INT_AMX_H_

#include "kernels/x86/int_avx512.h"

namespace octet::avx512 {

inline constexpr size_t kAmxRows = 16;
static_assert(kTileRows % kAmxRows == 0);
// Units unpacked at once; a multiple of those of any group.
inline constexpr size_t kAmxUnits = 16;
inline constexpr size_t kUnitBytes = 512;

// Names of tiles must be literals.
#define OCTET_TILE_CODES 0
#define OCTET_TILE_ROWS 1
#define OCTET_TILE_DOTS 2

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// GCC 12 does not know that tile instructions read memory: without this it may drop or move what
// was written for them.
inline void BeforeTiles() { asm volatile("" ::: "memory"); }

inline void ConfigureTiles() {
  TileConfig config;
  config.rows[OCTET_TILE_CODES] = kUnit / 4;
  config.bytes[OCTET_TILE_CODES] = 64;
  config.rows[OCTET_TILE_ROWS] = kAmxRows;
  config.bytes[OCTET_TILE_ROWS] = kUnit;
  config.rows[OCTET_TILE_DOTS] = kAmxRows;
  config.bytes[OCTET_TILE_DOTS] = 64;
  BeforeTiles();
  _tile_loadconfig(&config);
}

// Units [begin, end) of a panel: signed codes in tile order, and the scales of each group.
struct AmxUnits {
  size_t begin;
  size_t end;
  const uint8_t* codes;
  const UnitScales* scales;
};

// dots [16][16] of rows [r, r + 16) over units [u, u + count), on top of what the tile holds.
inline void TileDots(const IntTile& t, const AmxUnits& units, size_t u, size_t count, size_t r,
                     int32_t* dots) {
  for (size_t end = u + count; u < end; ++u) {
    _tile_loadd(OCTET_TILE_CODES, units.codes + (u - units.begin) * kUnitBytes, 64);
    _tile_loadd(OCTET_TILE_ROWS, t.q + (u * t.rows + r) * kUnit, kUnit);
    _tile_dpbssd(OCTET_TILE_DOTS, OCTET_TILE_ROWS, OCTET_TILE_CODES);
  }
  _tile_stored(OCTET_TILE_DOTS, dots, 64);
}

// Adds the units to rows [r, r + 16) of `out`, and with kCheck their dots to those of `check`.
template <Scales kScales, bool kBias, bool kCheck>
inline void AddUnits(const IntTile& t, const AmxUnits& units, size_t per_group, size_t r,
                     float* out, __m512i* check) {
  // Several, so that a group's tiles are multiplied while the one before it is scaled. With kCheck
  // they are running sums: what a group adds is the difference to the one before, and the last one
  // is the sum of all.
  constexpr size_t kTurns = kCheck ? 3 : 2;
  alignas(64) int32_t dots[kTurns][kAmxRows * 16];
  int32_t biases[kAmxRows] = {};
  __m512 acc[kAmxRows];
  for (size_t i = 0; i < kAmxRows; ++i) {
    acc[i] = Load(out + 16 * (r + i));
    if constexpr (kCheck) _mm512_store_si512(dots[kTurns - 1] + 16 * i, ZeroInt());
  }
  _tile_zero(OCTET_TILE_DOTS);
  TileDots(t, units, units.begin, per_group, r, dots[0]);
  size_t turn = 0, before = kTurns - 1;
  for (size_t u = units.begin; u < units.end; u += per_group) {
    const size_t next = u + per_group;
    const size_t after = turn + 1 == kTurns ? 0 : turn + 1;
    if (next < units.end) {
      if constexpr (!kCheck) _tile_zero(OCTET_TILE_DOTS);
      TileDots(t, units, next, per_group, r, dots[after]);
    }
    const UnitScales& s = units.scales[(u - units.begin) / per_group];
    const size_t at = (next - 1) * t.rows + r;
    for (size_t i = 0; i < kAmxRows; ++i) {
      __m512i dot = _mm512_load_si512(dots[turn] + 16 * i);
      if constexpr (kCheck) {
        dot = _mm512_sub_epi32(dot, _mm512_load_si512(dots[before] + 16 * i));
        if constexpr (kBias) biases[i] += t.bias[at + i];
      }
      if constexpr (kBias) dot = _mm512_add_epi32(dot, _mm512_set1_epi32(t.bias[at + i]));
      const __m512 a = Set1(t.scales[at + i]);
      acc[i] = Fma(_mm512_cvtepi32_ps(dot), Mul(s.scale, a), acc[i]);
      if constexpr (kScales == Scales::kF16Min || kScales == Scales::kSuper) {
        acc[i] = Fma(Set1(t.sums[at + i]), Mul(s.other, a), acc[i]);
      }
    }
    before = turn;
    turn = after;
  }
  for (size_t i = 0; i < kAmxRows; ++i) {
    Store(out + 16 * (r + i), acc[i]);
    if constexpr (kCheck) {
      const __m512i all = _mm512_load_si512(dots[before] + 16 * i);
      check[r + i] =
          _mm512_add_epi32(check[r + i], _mm512_add_epi32(all, _mm512_set1_epi32(biases[i])));
    }
  }
}

// Codes of units [begin, end) in tile order; `unpacked` holds them where the panel does not.
template <Codes kCodes, Scales kScales>
inline const uint8_t* TileCodes(const IntMatrix& w, const uint8_t* panel, size_t begin, size_t end,
                                uint8_t* unpacked) {
  if constexpr (kCodes != Codes::kNibbles) return panel + w.values + begin * kUnitBytes;
  for (size_t u = begin; u < end; ++u) {
    __m512i codes[8];
    LoadCodes<Codes::kNibbles>(panel + w.values, u, codes);
    for (int j = 0; j < 8; ++j) {
      // Without minima their offset is 8; taken off here it needs no bias.
      if constexpr (kScales == Scales::kF16) {
        codes[j] = _mm512_sub_epi8(codes[j], _mm512_set1_epi8(8));
      }
      _mm512_store_si512(reinterpret_cast<__m512i*>(unpacked + (u - begin) * kUnitBytes) + j,
                         codes[j]);
    }
  }
  return unpacked;
}

template <Codes kCodes, Scales kScales, bool kCheck>
void AmxTilePanels(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  static_assert(kScales != Scales::kHalves);
  // Bytes that are codes without a sign have the offset of their format.
  constexpr bool kBias = kCodes == Codes::kBytes && kScales == Scales::kF16;
  alignas(64) uint8_t unpacked[kCodes == Codes::kNibbles ? kAmxUnits * kUnitBytes : 64];
  UnitScales scales[kAmxUnits];
  __m512i check[kCheck ? kTileRows : 1];
  for (size_t i = 0; kCheck && i < kTileRows; ++i) check[i] = ZeroInt();
  ConfigureTiles();
  for (; count > 0; --count, ++p, out += kTileRows * 16) {
    const uint8_t* panel = w.data + p * w.panel_bytes;
    for (size_t i = 0; i < kTileRows; ++i) Store(out + 16 * i, Zero());
    for (size_t begin = 0; begin < w.units; begin += kAmxUnits) {
      const size_t end = begin + kAmxUnits < w.units ? begin + kAmxUnits : w.units;
      const AmxUnits units{begin, end, TileCodes<kCodes, kScales>(w, panel, begin, end, unpacked),
                           scales};
      for (size_t u = begin, g = 0; u < end; u += w.units_per_group, ++g) {
        scales[g] = LoadScales<kScales>(w, panel, u);
      }
      BeforeTiles();
      for (size_t r = 0; r < kTileRows; r += kAmxRows) {
        AddUnits<kScales, kBias, kCheck>(t, units, w.units_per_group, r, out, check);
      }
    }
  }
  // Tiles in use are saved at each switch of threads.
  _tile_release();
  for (size_t i = 0; kCheck && i < kTileRows; ++i) AddCheck(check[i], t.checks + i);
}

template <Codes kCodes, Scales kScales, bool kWide>
void AmxPanels(const IntMatrix& w, const IntTile& t, size_t p, size_t count, float* out) {
  if (t.rows < kTileRows) return IntPanels<kCodes, kScales, kWide>(w, t, p, count, out);
  if (t.checks != nullptr) return AmxTilePanels<kCodes, kScales, true>(w, t, p, count, out);
  AmxTilePanels<kCodes, kScales, false>(w, t, p, count, out);
}

}  // namespace octet::avx512

#endif  // OCTET_KERNELS_X86_INT_AMX_H_
