#include "core/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace octet {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;  // reflected

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kTable = MakeTable();

#if defined(__x86_64__)
// The instruction takes three cycles and one can begin in each: three streams go side by side, each
// of so many bytes.
constexpr size_t kStreamBytes = 512;

using ShiftTable = std::array<std::array<uint32_t, 256>, 4>;

// What a remainder becomes when kStreamBytes zero bytes follow, by each of its four bytes.
constexpr ShiftTable MakeShiftTable() {
  std::array<uint32_t, 32> bits{};
  for (int bit = 0; bit < 32; ++bit) {
    uint32_t crc = 1u << bit;
    for (size_t i = 0; i < kStreamBytes; ++i) crc = (crc >> 8) ^ kTable[crc & 0xff];
    bits[bit] = crc;
  }
  ShiftTable table{};
  for (int byte = 0; byte < 4; ++byte) {
    for (uint32_t value = 0; value < 256; ++value) {
      for (int bit = 0; bit < 8; ++bit) {
        if ((value >> bit & 1) != 0) table[byte][value] ^= bits[8 * byte + bit];
      }
    }
  }
  return table;
}

constexpr ShiftTable kShift = MakeShiftTable();

uint32_t Shift(uint64_t crc) {
  return kShift[0][crc & 0xff] ^ kShift[1][crc >> 8 & 0xff] ^ kShift[2][crc >> 16 & 0xff] ^
         kShift[3][crc >> 24 & 0xff];
}

uint64_t LoadWord(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

__attribute__((target("sse4.2"))) uint32_t Crc32cSse42(const void* data, size_t size) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint64_t crc = 0xffffffffu;
  for (; size >= 3 * kStreamBytes; size -= 3 * kStreamBytes, p += 3 * kStreamBytes) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < kStreamBytes; i += 8) {
      crc = _mm_crc32_u64(crc, LoadWord(p + i));
      second = _mm_crc32_u64(second, LoadWord(p + kStreamBytes + i));
      third = _mm_crc32_u64(third, LoadWord(p + 2 * kStreamBytes + i));
    }
    crc = Shift(Shift(crc) ^ second) ^ third;
  }
  for (; size >= 8; size -= 8, p += 8) crc = _mm_crc32_u64(crc, LoadWord(p));
  auto tail = static_cast<uint32_t>(crc);
  for (; size > 0; --size, ++p) tail = _mm_crc32_u8(tail, *p);
  return ~tail;
}
#endif

}  // namespace

uint32_t internal::Crc32cPortable(const void* data, size_t size) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ kTable[(crc ^ p[i]) & 0xff];
  return ~crc;
}

uint32_t Crc32c(const void* data, size_t size) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return Crc32cSse42(data, size);
#endif
  return internal::Crc32cPortable(data, size);
}

}  // namespace octet
