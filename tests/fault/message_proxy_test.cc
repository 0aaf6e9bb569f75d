#include "tests/fault/message_proxy.h"

#include <gtest/gtest.h>

#include <set>

#include "core/mutex.h"
#include "octet/v1/inference.grpc.pb.h"
#include "rpc/channel.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

constexpr uint32_t kChunks = 200;

// Answers with numbered chunks.
class Counting final : public octet::v1::Inference::Service {
  grpc::Status Generate(grpc::ServerContext*, const octet::v1::GenerateRequest* request,
                        grpc::ServerWriter<octet::v1::GenerateResponse>* writer) override {
    octet::v1::GenerateResponse event;
    for (uint32_t i = 0; i < kChunks; ++i) {
      event.mutable_chunk()->set_index(i);
      event.mutable_chunk()->set_text(request->text());
      writer->Write(event);
    }
    return grpc::Status::OK;
  }
};

class MessageProxyTest : public ::testing::Test {
 protected:
  MessageProxyTest() {
    auto server = RpcServer::Start("127.0.0.1:0", {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto proxy = MessageProxy::Start(7);
    EXPECT_TRUE(proxy.ok()) << proxy.status();
    proxy_ = *std::move(proxy);
  }

  // What comes of one call, as far as it can be read.
  std::vector<octet::v1::GenerateResponse> Ask() {
    const auto channel = CreateChannel(proxy_->address());
    EXPECT_TRUE(channel.ok());
    const auto stub = octet::v1::Inference::NewStub(*channel);
    grpc::ClientContext context;
    octet::v1::GenerateRequest request;
    request.set_text("hello");
    const auto reader = stub->Generate(&context, request);
    std::vector<octet::v1::GenerateResponse> events;
    octet::v1::GenerateResponse event;
    while (events.size() < kChunks && reader->Read(&event)) events.push_back(event);
    context.TryCancel();
    (void)reader->Finish();
    return events;
  }

  Counting service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<MessageProxy> proxy_;
};

TEST_F(MessageProxyTest, PassesEverythingOnUnlessToldOtherwise) {
  EXPECT_TRUE(Ask().empty()) << "it has no upstream yet";
  ASSERT_TRUE(proxy_->SetUpstream(server_->address()).ok());
  const auto events = Ask();
  ASSERT_GT(events.size(), 0u);
  for (uint32_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].chunk().index(), i);
    EXPECT_EQ(events[i].chunk().text(), "hello");
  }
  EXPECT_EQ(proxy_->counts().flipped, 0u);
}

TEST_F(MessageProxyTest, SendsTwiceWhatItIsToldTo) {
  ASSERT_TRUE(proxy_->SetUpstream(server_->address()).ok());
  proxy_->SetFaults({.duplicate = 1});
  const auto events = Ask();
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events[0].chunk().index(), events[1].chunk().index());
  EXPECT_EQ(events[2].chunk().index(), events[3].chunk().index());
}

TEST_F(MessageProxyTest, DelaysChangeTheOrder) {
  ASSERT_TRUE(proxy_->SetUpstream(server_->address()).ok());
  proxy_->SetFaults({.delay = 0.2, .delay_max = Duration::Millis(20)});
  const auto events = Ask();
  bool disorder = false;
  for (size_t i = 1; i < events.size(); ++i) {
    disorder = disorder || events[i].chunk().index() < events[i - 1].chunk().index();
  }
  EXPECT_TRUE(disorder);
  EXPECT_GT(proxy_->counts().delayed, 0u);
}

TEST_F(MessageProxyTest, FlipsOneBit) {
  ASSERT_TRUE(proxy_->SetUpstream(server_->address()).ok());
  proxy_->SetFaults({.flip = 1});
  const auto events = Ask();
  octet::v1::GenerateResponse sent;
  for (uint32_t i = 0; i < events.size(); ++i) {
    sent.mutable_chunk()->set_index(i);
    sent.mutable_chunk()->set_text("hello");
    EXPECT_NE(events[i].SerializeAsString(), sent.SerializeAsString());
  }
  EXPECT_GT(proxy_->counts().flipped, 0u);
}

}  // namespace
}  // namespace octet
