#include "rpc/status_details.h"

#include <gtest/gtest.h>

#include "core/limits.h"
#include "google/rpc/error_details.pb.h"

namespace octet {
namespace {

TEST(StatusDetails, RoundTripKeepsCodeMessageAndEveryDetail) {
  absl::Status status = absl::ResourceExhaustedError("queue full");
  SetErrorDetail(&status, "QUEUE_FULL", {{"waiting", "1024"}});
  SetRetryDelay(&status, Duration::Millis(1250));
  AddFieldViolation(&status, "a", "first");
  AddFieldViolation(&status, "b", "second");

  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_EQ(back.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(back.message(), "queue full");
  const auto detail = GetErrorDetail(back);
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(detail->reason, "QUEUE_FULL");
  EXPECT_EQ(detail->domain, kErrorDomain);
  EXPECT_EQ(detail->metadata.at("waiting"), "1024");
  ASSERT_TRUE(GetRetryDelay(back).has_value());
  EXPECT_EQ(GetRetryDelay(back)->ns, Duration::Millis(1250).ns);
  const auto violations = GetFieldViolations(back);
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[1].field, "b");
  EXPECT_EQ(violations[1].description, "second");
}

TEST(StatusDetails, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(StatusDetails, EveryCodeMaps) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "x");
    EXPECT_EQ(static_cast<int>(ToGrpcStatus(status).error_code()), code);
    EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  }
}

TEST(StatusDetails, GarbageFromThePeerIsIgnored) {
  const grpc::Status garbage(grpc::StatusCode::INTERNAL, "m", "\xff\xff not a proto");
  const absl::Status status = FromGrpcStatus(garbage);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(GetErrorDetail(status).has_value());
  absl::Status negative = absl::UnavailableError("x");
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(-5);
  negative.SetPayload("type.googleapis.com/google.rpc.RetryInfo",
                      absl::Cord(info.SerializeAsString()));
  EXPECT_FALSE(GetRetryDelay(negative).has_value());
}

TEST(StatusDetails, MessagesAreCutAndMadeValidUtf8) {
  const auto reply =
      ToGrpcStatus(absl::InternalError(std::string(3 * kStatusMessageBytesMax, 'x')));
  EXPECT_EQ(reply.error_message().size(), kStatusMessageBytesMax);
  EXPECT_EQ(ToGrpcStatus(absl::InternalError("a\xff\xed\xa0\x80z\xc3\xa9")).error_message(),
            "a????z\xc3\xa9");
}

TEST(StatusDetails, OversizeDetailsAreLeftOut) {
  absl::Status status = absl::InternalError("m");
  status.SetPayload("big", absl::Cord(std::string(kStatusDetailBytesMax, 'x')));
  EXPECT_EQ(ToGrpcStatus(status).error_details(), "");
}

}  // namespace
}  // namespace octet
