// Philox4x32-10: a counter-based random generator (Salmon, Moraes, Dror, Shaw, "Parallel Random
// Numbers: As Easy as 1, 2, 3", SC11). The same counter and key give the same words anywhere, so a
// draw depends on nothing that was drawn before.
#ifndef OCTET_ROUTER_PHILOX_H_
#define OCTET_ROUTER_PHILOX_H_

#include <array>
#include <cstdint>

namespace octet {

inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// The draw for token `position` of generation `choice` under `seed`: a multiple of 2^-53 in [0, 1).
inline double UniformDraw(uint64_t seed, uint32_t choice, uint32_t position) {
  const std::array<uint32_t, 4> words = Philox4x32(
      {position, choice, 0, 0}, {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{words[0]} << 32) | words[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace octet

#endif  // OCTET_ROUTER_PHILOX_H_
