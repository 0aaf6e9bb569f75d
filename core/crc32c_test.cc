#include "core/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace octet {
namespace {

// Vectors of RFC 3720, appendix B.4.
TEST(Crc32c, PublishedVectors) {
  EXPECT_EQ(Crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0').data(), 32), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff').data(), 32), 0x62a8ab43u);
  EXPECT_EQ(Crc32c("", 0), 0u);
}

TEST(Crc32c, InstructionAndTableAgree) {
  std::mt19937 rng(3);
  std::string data(6000, '\0');
  for (char& c : data) c = static_cast<char>(rng());
  for (size_t size = 0; size < 70; ++size) {
    for (size_t offset = 0; offset < 9; ++offset) {
      EXPECT_EQ(Crc32c(data.data() + offset, size),
                internal::Crc32cPortable(data.data() + offset, size));
    }
  }
  for (size_t size = 1000; size < data.size(); size += 7) {
    EXPECT_EQ(Crc32c(data.data(), size), internal::Crc32cPortable(data.data(), size)) << size;
  }
}

}  // namespace
}  // namespace octet
