// Requests of clients: any message gives a request that the engine accepts or an error that names a
// field, and what was resolved resolves to itself.
// Links: octet_router_api_codec octet_router
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/check.h"
#include "core/limits.h"
#include "octet/v1/inference.pb.h"
#include "router/api/inference_codec.h"
#include "router/request_check.h"
#include "rpc/channel.h"

namespace {

constexpr uint32_t kVocab = 1000;
constexpr uint32_t kContext = 512;

const octet::ServedModel& Model() {
  static const auto* const model = [] {
    octet::RouteGrpcLogs();  // protobuf tells about every string that is not UTF-8
    octet::ModelIdentity identity;
    identity.config.vocab = kVocab;
    identity.config.context = kContext;
    identity.name = "fuzz";
    identity.compute_digest = std::string(64, 'a');
    identity.context = kContext;
    return new octet::ServedModel(identity, octet::NoTokenizer());
  }();
  return *model;
}

void CheckAccepted(const octet::v1::GenerateRequest& message,
                   const octet::GenerationRequest& request) {
  OCTET_CHECK(octet::CheckRequest(request, kVocab, kContext).ok());
  OCTET_CHECK(request.stop.max_tokens >= 1);
  OCTET_CHECK(request.prompt.size() + request.stop.max_tokens <= kContext);
  // A client may send back what `started` told it.
  const auto started = octet::StartedToProto(request, Model());
  octet::v1::GenerateRequest again = message;
  *again.mutable_sampling() = started.started().sampling();
  *again.mutable_stop() = started.started().stop();
  const auto second = octet::ResolveGenerateRequest(again, Model(), {"other", 1});
  OCTET_CHECK(second.ok());
  OCTET_CHECK(second->sampling.seed == request.sampling.seed);
  OCTET_CHECK(second->sampling.temperature == request.sampling.temperature);
  OCTET_CHECK(second->sampling.logit_bias == request.sampling.logit_bias);
  OCTET_CHECK(second->stop.max_tokens == request.stop.max_tokens);
  OCTET_CHECK(second->stop.stop_strings == request.stop.stop_strings);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const octet::ServedModel& model = Model();
  octet::v1::GenerateRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto request = octet::ResolveGenerateRequest(message, model, {"drawn", 7});
  if (request.ok()) {
    CheckAccepted(message, *request);
  } else {
    OCTET_CHECK(request.status().code() == absl::StatusCode::kInvalidArgument ||
                request.status().code() == absl::StatusCode::kFailedPrecondition);
    OCTET_CHECK(!request.status().message().empty());
  }
  return 0;
}
