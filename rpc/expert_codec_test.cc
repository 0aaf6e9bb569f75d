#include "rpc/expert_codec.h"

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include "core/crc32c.h"

namespace octet {
namespace {

octet::v1::Dispatch SealedDispatch() {
  octet::v1::Dispatch d;
  d.mutable_key()->set_router(0x0123456789abcdef);
  d.mutable_key()->set_step(4711);
  d.mutable_key()->set_layer(1);
  d.mutable_key()->set_attempt(99);
  d.set_epoch(3);
  d.set_compute_digest(std::string(64, 'd'));
  d.set_row_count(2);
  d.set_checksum(Crc32c("", 0));
  auto* group = d.add_experts();
  group->set_expert(2);
  group->add_rows(0);
  group->add_rows(1);
  Seal(&d);
  return d;
}

// Also where the two are in different fields: then they must not cancel.
TEST(SealTest, AnyTwoFlippedBitsShow) {
  (void)google::protobuf::SetLogHandler(nullptr);
  const octet::v1::Dispatch good = SealedDispatch();
  ASSERT_TRUE(SealFits(good));
  const std::string bytes = good.SerializeAsString();
  size_t parsed = 0;
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    for (size_t j = i; j < bytes.size() * 8; ++j) {
      std::string damaged = bytes;
      damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << (i % 8)));
      if (j != i) damaged[j / 8] = static_cast<char>(damaged[j / 8] ^ (1 << (j % 8)));
      octet::v1::Dispatch read;
      if (!read.ParseFromString(damaged)) continue;
      ++parsed;
      ASSERT_FALSE(SealFits(read)) << "bits " << i << " and " << j;
    }
  }
  EXPECT_GT(parsed, 100'000u);
}

TEST(SealTest, CoversEachFieldOfAReplyButTheRows) {
  octet::v1::DispatchReply good;
  good.mutable_key()->set_attempt(7);
  good.set_rows("rows");
  Seal(&good);
  ASSERT_TRUE(SealFits(good));
  octet::v1::DispatchReply r = good;
  r.set_rows("other");  // has a checksum of its own
  EXPECT_TRUE(SealFits(r));
  r.mutable_key()->set_attempt(6);
  EXPECT_FALSE(SealFits(r));
  r = good;
  r.set_error(octet::v1::DISPATCH_NOT_HELD);
  EXPECT_FALSE(SealFits(r));
  r = good;
  r.set_checksum(1);
  EXPECT_FALSE(SealFits(r));
  r = good;
  r.set_compute_ns(5);
  EXPECT_FALSE(SealFits(r));
  r = good;
  r.clear_seal();
  EXPECT_FALSE(SealFits(r));
}

}  // namespace
}  // namespace octet
