#include "transport/nccl/nccl_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/nccl_limits.h"

namespace octet {
namespace {

using octet::v1::NcclWelcome;
using ::testing::HasSubstr;

NcclTerms GoodTerms() {
  NcclTerms terms;
  std::memset(terms.ids[0].bytes, 1, kNcclUniqueIdBytes);
  std::memset(terms.ids[1].bytes, 0, kNcclUniqueIdBytes);
  terms.sizes = {NcclSizes{100, 1000}, NcclSizes{200, 2000}};
  return terms;
}

TEST(NcclMessage, TermsSurviveTheWire) {
  NcclWelcome message;
  EncodeWelcome(GoodTerms(), &message);
  const auto terms = DecodeWelcome(message);
  ASSERT_TRUE(terms.ok()) << terms.status();
  EXPECT_EQ(std::memcmp(&*terms, std::vector{GoodTerms()}.data(), sizeof(NcclTerms)), 0);
}

TEST(NcclMessage, TermsThatCannotBeAreRefused) {
  struct Case {
    std::function<void(NcclWelcome*)> spoil;
    const char* says;
  };
  const std::vector<Case> cases = {
      {[](NcclWelcome* w) { w->clear_dispatch_id(); }, "dispatch_id: 0"},
      {[](NcclWelcome* w) { w->mutable_reply_id()->push_back('x'); }, "reply_id: 129"},
      {[](NcclWelcome* w) { w->set_dispatch_bucket_bytes(0); }, "dispatch_bytes"},
      {[](NcclWelcome* w) { w->set_dispatch_bucket_bytes(1001); }, "dispatch_bytes"},
      {[](NcclWelcome* w) { w->set_reply_bytes_max(kNcclTransferBytesMax + 1); }, "reply_bytes"},
      {[](NcclWelcome* w) { w->set_reply_bytes_max(UINT64_MAX); }, "reply_bytes"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.says);
    NcclWelcome message;
    EncodeWelcome(GoodTerms(), &message);
    c.spoil(&message);
    const auto terms = DecodeWelcome(message);
    EXPECT_TRUE(absl::IsInvalidArgument(terms.status()));
    EXPECT_THAT(std::string(terms.status().message()), HasSubstr(c.says));
  }
}

TEST(NcclMessage, DecodeRowsTravelInBucketsAndTheRestAsItIs) {
  const NcclSizes sizes{100, 1000};
  EXPECT_EQ(sizes.TransferBytes(1, false), 100u);
  EXPECT_EQ(sizes.TransferBytes(100, false), 100u);
  EXPECT_EQ(sizes.TransferBytes(101, false), 101u);
  EXPECT_EQ(sizes.TransferBytes(1, true), 1u);
  EXPECT_FALSE(sizes.Allows(0));
  EXPECT_TRUE(sizes.Allows(1000));
  EXPECT_FALSE(sizes.Allows(1001));
}

TEST(NcclMessage, SizesFollowFromTheModel) {
  const WireFormat small{64, 32, ReplyDType::kBF16};
  const WireFormat large{4096, 128, ReplyDType::kF32};
  const auto sizes = NcclSizesOf({small, large, small});
  EXPECT_EQ(sizes[0].bucket, kNcclBucketRows * large.RowBytes());
  EXPECT_EQ(sizes[0].max, kDispatchRowsMax * large.RowBytes());
  EXPECT_EQ(sizes[1].bucket, kNcclBucketRows * large.ReplyRowBytes());
  EXPECT_EQ(sizes[1].max, kNcclTransferBytesMax);
}

TEST(NcclMessage, ReplyRowsSurviveTheWire) {
  for (const ReplyDType reply : {ReplyDType::kF32, ReplyDType::kBF16}) {
    const WireFormat format{3, 0, reply};
    const std::vector<float> rows = {1.0f, -2.5f, 0.0f, 1e30f, 0.15625f, -0.0f};
    std::vector<uint8_t> bytes(2 * format.ReplyRowBytes());
    const uint32_t checksum = EncodeReplyRowsTo(rows.data(), 2, format, bytes.data());
    std::vector<float> got(rows.size());
    EXPECT_TRUE(DecodeReplyRows(bytes.data(), 2, format, checksum, got.data()).ok());
    std::vector<float> want = rows;
    WireFormat rounding = format;
    RoundReply(rounding, want.data(), want.size());
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0);
    bytes[1] ^= 1;
    EXPECT_TRUE(absl::IsDataLoss(DecodeReplyRows(bytes.data(), 2, format, checksum, got.data())));
  }
}

}  // namespace
}  // namespace octet
