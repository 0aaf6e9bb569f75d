// octet.v1 inference messages <-> the engine's types. Pure: resolves every optional field, checks
// every range.
#ifndef OCTET_ROUTER_API_INFERENCE_CODEC_H_
#define OCTET_ROUTER_API_INFERENCE_CODEC_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "octet/v1/inference.pb.h"
#include "router/api/served_model.h"
#include "router/generation.h"

namespace octet {

// What a request gets where it does not bring its own.
struct RequestDraws {
  std::string request_id;
  uint64_t seed = 0;
};

// Defaults filled in, ranges as in proto/octet/v1/inference.proto. The deadline is left at kNever.
// INVALID_ARGUMENT names one field, its value and what is allowed, and carries a BadRequest detail;
// FAILED_PRECONDITION: chat without a usable template. max_tokens is cut to what the context
// leaves.
absl::StatusOr<GenerationRequest> ResolveGenerateRequest(const octet::v1::GenerateRequest& request,
                                                         const ServedModel& model,
                                                         const RequestDraws& draws);

// The first message of a stream: the request as resolved.
octet::v1::GenerateResponse StartedToProto(const GenerationRequest& request,
                                           const ServedModel& model);
octet::v1::GenerateResponse ChunkToProto(const GenerationChunk& chunk);
octet::v1::GenerateResponse FinishedToProto(const GenerationResult& result);

absl::StatusOr<octet::v1::TokenizeResponse> HandleTokenize(
    const octet::v1::TokenizeRequest& request, const ServedModel& model);
absl::StatusOr<octet::v1::DetokenizeResponse> HandleDetokenize(
    const octet::v1::DetokenizeRequest& request, const ServedModel& model);
octet::v1::GetModelResponse HandleGetModel(const ServedModel& model);

}  // namespace octet

#endif  // OCTET_ROUTER_API_INFERENCE_CODEC_H_
