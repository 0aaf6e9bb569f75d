// CRC-32C (Castagnoli), the checksum of the expert wire.
#ifndef OCTET_CORE_CRC32C_H_
#define OCTET_CORE_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace octet {

// Checksum of `size` bytes; "123456789" gives 0xe3069283. Uses the CPU's instruction where it has
// one.
uint32_t Crc32c(const void* data, size_t size);

namespace internal {
// The portable implementation, for machines without the instruction and for tests.
uint32_t Crc32cPortable(const void* data, size_t size);
}  // namespace internal

}  // namespace octet

#endif  // OCTET_CORE_CRC32C_H_
