// Arithmetic on sizes that come from files.
#ifndef OCTET_MODEL_CHECKED_MATH_H_
#define OCTET_MODEL_CHECKED_MATH_H_

#include <cstdint>

namespace octet {

// False on overflow, else *out = a + b.
inline bool CheckedAdd(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_add_overflow(a, b, out);
}
// False on overflow, else *out = a * b.
inline bool CheckedMul(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}
// False on overflow, else *out = a rounded up to a multiple of `unit`, which is not 0.
inline bool CheckedRoundUp(uint64_t a, uint64_t unit, uint64_t* out) {
  uint64_t sum = 0;
  if (!CheckedAdd(a, unit - 1, &sum)) return false;
  *out = sum / unit * unit;
  return true;
}

}  // namespace octet

#endif  // OCTET_MODEL_CHECKED_MATH_H_
