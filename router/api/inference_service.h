// octet.v1.Inference over an Engine, on gRPC's callback API: no reaction blocks, every reaction
// finishes.
#ifndef OCTET_ROUTER_API_INFERENCE_SERVICE_H_
#define OCTET_ROUTER_API_INFERENCE_SERVICE_H_

#include <memory>

#include "core/clock.h"
#include "octet/v1/inference.grpc.pb.h"
#include "router/api/served_model.h"
#include "router/engine.h"

namespace octet {

// Delay that clients are told with RESOURCE_EXHAUSTED (queue full) and UNAVAILABLE (draining).
inline constexpr Duration kRetryAfter = Duration::Millis(500);

// Thread-safe. Outlives its server; `engine` and `clock` outlive both.
class InferenceService final : public octet::v1::Inference::CallbackService {
 public:
  InferenceService(std::shared_ptr<const ServedModel> model, Engine* engine, const Clock* clock);

  // A client that does not read has at most kOutputBufferTokensMax tokens buffered; then its call
  // is cancelled. A call that is cancelled, past its deadline or disconnected ends its request.
  grpc::ServerWriteReactor<octet::v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const octet::v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const octet::v1::TokenizeRequest* request,
                                     octet::v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const octet::v1::DetokenizeRequest* request,
                                       octet::v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const octet::v1::GetModelRequest* request,
                                     octet::v1::GetModelResponse* response) override;

 private:
  const std::shared_ptr<const ServedModel> model_;
  Engine* const engine_;
  const Clock* const clock_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_API_INFERENCE_SERVICE_H_
