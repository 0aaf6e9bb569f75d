// Bounds of every queue, batch, retry, wait and untrusted size in Octet. One place, so that the
// memory and time a process can take are readable at a glance.
#ifndef OCTET_CORE_LIMITS_H_
#define OCTET_CORE_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace octet {

// ---- Model shapes: what a loader accepts ----
inline constexpr uint32_t kLayersMax = 512;
inline constexpr uint32_t kExpertsMax = 512;
inline constexpr uint32_t kTopKMax = 16;
inline constexpr uint32_t kHiddenMax = 65536;
inline constexpr uint32_t kIntermediateMax = 262144;
inline constexpr uint32_t kVocabMax = 1u << 20;
inline constexpr uint32_t kHeadsMax = 512;
inline constexpr uint32_t kHeadDimMax = 512;
inline constexpr uint32_t kContextMax = 1u << 20;
// Inputs of a matrix in a w4x format: 15 * 8 * 128 times as many fit an int32.
inline constexpr uint32_t kW4xInputsMax = 139'776;

// ---- Files ----
inline constexpr uint64_t kSafetensorsHeaderBytesMax = 16u << 20;
inline constexpr uint64_t kTensorsMax = 65536;
inline constexpr uint32_t kTensorRankMax = 8;
inline constexpr uint32_t kGgufRankMax = 4;
inline constexpr uint64_t kGgufKeyValuesMax = 65536;
inline constexpr uint64_t kGgufStringBytesMax = 16u << 20;
inline constexpr uint64_t kGgufAlignmentMax = 1u << 16;
inline constexpr uint64_t kGgufArrayElementsMax = 16u << 20;
inline constexpr uint64_t kShardsMax = 4096;
inline constexpr uint64_t kManifestBytesMax = 16u << 20;
// Threads that read, pack and digest files.
inline constexpr uint32_t kLoadThreadsMax = 32;
// Source bytes that one piece of packing work turns around at a time.
inline constexpr uint64_t kPackChunkBytes = 4u << 20;
inline constexpr uint64_t kConfigBytesMax = 4u << 20;
inline constexpr uint64_t kTokenizerBytesMax = 128u << 20;
inline constexpr int kJsonDepthMax = 64;
// Values (scalars, arrays, objects) in one JSON document.
inline constexpr uint64_t kJsonValuesMax = 8u << 20;

// ---- Tokenizers ----
inline constexpr uint64_t kTokenBytesMax = 4096;  // one vocabulary entry
inline constexpr uint64_t kMergesMax = 4u << 20;
inline constexpr uint64_t kAddedTokensMax = 65536;
inline constexpr uint64_t kEncodeBytesMax = 16u << 20;  // text of one Encode call
inline constexpr uint64_t kPreTokenizerStepsMax = 32;   // also normalizer steps
inline constexpr uint64_t kRegexBytesMax = 64u << 10;
inline constexpr uint32_t kRegexMatchLimit = 50'000'000;  // backtracking steps of one match
inline constexpr uint32_t kRegexHeapKibMax = 64u << 10;
inline constexpr uint64_t kDigestLeafBytes = 1u << 20;

// ---- KV cache and scheduler ----
// Also the attention block of the arithmetic contract: changing it changes bits.
inline constexpr uint32_t kKvBlockPositions = 64;
inline constexpr uint32_t kStepTokensMax = 4096;
inline constexpr uint32_t kRunningRequestsMax = 1024;
inline constexpr uint32_t kWaitingRequestsMax = 1024;
// Rows whose logits exist at once: vocab * 4 bytes each.
inline constexpr uint32_t kLogitRowsMax = 64;
// How long a step waits for an expert without a replica before it starts again, so that
// cancellations and deadlines are seen.
inline constexpr int64_t kStepWaitMs = 250;
inline constexpr int kRouterThreadsMax = 1024;

// ---- One generation request ----
inline constexpr uint64_t kPromptBytesMax = 8u << 20;
inline constexpr uint32_t kStopStringsMax = 16;
inline constexpr uint32_t kStopStringBytesMax = 1024;
inline constexpr uint32_t kStopIdsMax = 128;
inline constexpr uint32_t kLogitBiasMax = 1024;
inline constexpr uint32_t kTopLogprobsMax = 20;
inline constexpr uint32_t kRequestIdBytesMax = 128;
inline constexpr uint32_t kCacheSaltBytesMax = 256;
// Tokens buffered for a client that does not read before its request is cancelled.
inline constexpr uint32_t kOutputBufferTokensMax = 8192;
inline constexpr uint32_t kChatMessagesMax = 4096;

// ---- Clients ----
// Attempts of one call, resumed streams included, without any progress between them.
inline constexpr uint32_t kClientAttemptsMax = 64;
inline constexpr int64_t kClientBackoffMsMax = 2000;

// ---- Chat templates ----
inline constexpr uint32_t kTemplateBytesMax = 256u << 10;
inline constexpr uint32_t kTemplateStepsMax = 2'000'000;
inline constexpr uint32_t kTemplateOutputBytesMax = 16u << 20;
inline constexpr uint32_t kTemplateDepthMax = 64;  // blocks, brackets, nested values
// Height of one expression's tree: a chain of operators counts each.
inline constexpr uint32_t kTemplateExpressionHeightMax = 256;
// A string or list of this many bytes or items costs one step to make.
inline constexpr uint32_t kTemplateBytesPerStep = 256;

// ---- Expert wire ----
inline constexpr uint64_t kFrameBytesMax = 256u << 20;
// Of a frame, for all fields but the rows of a reply.
inline constexpr uint64_t kFrameHeadBytesMax = 4096;
inline constexpr uint32_t kDispatchRowsMax = kStepTokensMax;
inline constexpr uint32_t kWorkerQueuedFramesMax = 4096;
inline constexpr uint64_t kWorkerQueuedBytesMax = 1ull << 30;
// Dispatches of one stream that a worker has read and not yet answered; past that it stops reading.
inline constexpr uint32_t kStreamDispatchesMax = 64;
// Dispatches of one link that wait to be written; past that a dispatch fails at once.
inline constexpr uint32_t kLinkQueuedDispatchesMax = 64;
inline constexpr uint32_t kReplyPoolBuffersMax = 32;
inline constexpr uint32_t kWorkersMax = 512;
// Attempts for one group of rows inside a step before it waits for a new placement.
inline constexpr uint32_t kDispatchAttemptsMax = 8;

// Memory of a CUDA device that a worker leaves for rows, scratch and others.
inline constexpr uint64_t kCudaReserveBytes = 1ull << 30;

// ---- Control plane ----
inline constexpr int64_t kLeaseMs = 3000;
inline constexpr int64_t kHeartbeatMs = 500;
// Placements from the coordinator that a worker has not carried out yet.
inline constexpr uint32_t kPlacementUpdatesMax = 64;
inline constexpr uint32_t kWatchersMax = 1024;
inline constexpr uint32_t kDrainsMax = 64;
inline constexpr int64_t kPrepareMs = 600'000;       // before a worker counts as failed to prepare
inline constexpr int64_t kPrepareFreezeMs = 30'000;  // before such a worker is given experts again
inline constexpr int64_t kLostShownMs = 60'000;      // a lost member stays in the status
inline constexpr uint64_t kSeenMax = 1ull << 62;     // terms, epochs and ids that a member reports
inline constexpr uint32_t kCoordinatorQueueMax = 8192;  // events waiting for the owner thread
inline constexpr int64_t kStoreRetryMs = 500;
inline constexpr int64_t kLeaseMsMin = 50;
inline constexpr int64_t kLeaseMsMax = 600'000;
inline constexpr int64_t kCoordinatorCallMs = 2'000;  // deadline of one register or heartbeat call
inline constexpr int64_t kReconnectMsMin = 50;
inline constexpr int64_t kReconnectMsMax = 2'000;
inline constexpr uint32_t kNameBytesMax = 256;  // zone, host, model name
inline constexpr uint32_t kPrepareErrorBytesMax = 1024;
inline constexpr uint64_t kCoordinatorStateBytesMax = 64u << 20;
inline constexpr uint32_t kGrpcControlMessageBytesMax = 16u << 20;
inline constexpr uint32_t kGrpcMetadataBytesMax = 8192;
inline constexpr uint32_t kGrpcConcurrentStreamsMax = 1024;  // per connection
inline constexpr uint64_t kGrpcServerMemoryBytesMax = 1ull << 30;
// Message and details of a failure together stay under kGrpcMetadataBytesMax, encoded.
inline constexpr size_t kStatusMessageBytesMax = 1024;
inline constexpr size_t kStatusDetailBytesMax = 2048;
inline constexpr int64_t kRetryDelaySecondsMax = 3600;
inline constexpr size_t kAddressBytesMax = 256;
inline constexpr size_t kModelVersionBytesMax = 128;

}  // namespace octet

#endif  // OCTET_CORE_LIMITS_H_
