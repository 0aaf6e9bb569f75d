#include "router/cuda_transformer.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "kernels/cuda_library.h"
#include "kernels/cuda_upload.h"
#include "router/cuda_model.h"

namespace octet {
namespace {

absl::Status CheckReplies(const std::vector<WireFormat>& formats) {
  for (const WireFormat& format : formats) {
    if (format.reply == ReplyDType::kF32) continue;
    return absl::UnimplementedError(
        "device: experts beside the router on a CUDA device answer in f32; this package was packed "
        "with --reply bf16");
  }
  return absl::OkStatus();
}

}  // namespace

CudaTransformer::CudaTransformer(const TransformerModel& model, TokenDispatcher* dispatcher,
                                 const ExecContext& ctx, const TransformerLimits& limits)
    : config_(model.config),
      wire_formats_(model.wire_formats),
      dispatcher_(dispatcher),
      ctx_(ctx),
      limits_(limits) {}

CudaTransformer::~CudaTransformer() {
  // What was enqueued reads memory that goes before the step does.
  if (step_ != nullptr) (void)step_->Wait();
}

absl::StatusOr<std::unique_ptr<CudaTransformer>> CudaTransformer::Create(
    const TransformerModel& model, TokenDispatcher* dispatcher, const ExecContext& ctx,
    const CudaTransformerOptions& options) {
  OCTET_ASSIGN_OR_RETURN(const cuda::CudaApi* api, OpenCudaApi());
  OCTET_RETURN_IF_ERROR(CheckCudaDevice(*api, options.device));
  OCTET_RETURN_IF_ERROR(CudaStatus(*api, api->set_device(options.device), "choosing the device"));
  std::unique_ptr<CudaTransformer> out(new CudaTransformer(model, dispatcher, ctx, options.limits));
  if (options.kv_dtype == DType::kI8) {
    return absl::UnimplementedError("kv_dtype: a cache in int8 is for the CPU only");
  }
  out->local_ = !options.experts.empty();
  out->on_failed_ = options.on_failed;
  out->rows_stay_ = options.rows_stay;
  if (out->local_) OCTET_RETURN_IF_ERROR(CheckReplies(model.wire_formats));
  const size_t layer_bytes =
      KvBlockLayerBytes(options.kv_dtype, model.config.kv_heads, model.config.head_dim);
  const size_t block_bytes = layer_bytes * model.config.layers;
  out->kv_blocks_ = std::min<size_t>(options.kv_cache_bytes / block_bytes, UINT32_MAX - 1);
  if (out->kv_blocks_ == 0) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "kv_cache_bytes: ", options.kv_cache_bytes, " is less than one block of ",
        kKvBlockPositions, " positions, which takes ", block_bytes, " bytes for this model"));
  }
  const size_t positions =
      std::min<size_t>(out->kv_blocks_ * kKvBlockPositions, model.config.context);
  OCTET_ASSIGN_OR_RETURN(out->model_, UploadModel(*api, options.device, model.config, model.weights,
                                                  options.experts, model.numerics, positions));
  OCTET_RETURN_IF_ERROR(out->Allocate(options, *api));
  return out;
}

absl::Status CudaTransformer::Allocate(const CudaTransformerOptions& options,
                                       const cuda::CudaApi& api) {
  const size_t layer_bytes =
      KvBlockLayerBytes(options.kv_dtype, config_.kv_heads, config_.head_dim);
  const size_t block_bytes = layer_bytes * config_.layers;
  OCTET_ASSIGN_OR_RETURN(cache_, AllocateCuda(api, kv_blocks_ * block_bytes, "the KV cache"));
  for (size_t i = 0; i < config_.layers; ++i) {
    model_->layers[i].wire_padded = wire_formats_[i].padded_hidden();
    model_->layers[i].wire_group = wire_formats_[i].activation_group;
  }
  CudaStepLimits limits;
  limits.rows_max = limits_.rows_max;
  limits.sequences_max = limits_.sequences_max;
  limits.logit_rows_max = limits_.logit_rows_max;
  const size_t positions = std::min<size_t>(kv_blocks_ * kKvBlockPositions, config_.context);
  limits.blocks_max = limits_.sequences_max * (positions / kKvBlockPositions + 1);
  OCTET_ASSIGN_OR_RETURN(step_, CudaStep::Create(api, model_.get(),
                                                 {cache_.get(), block_bytes, options.kv_dtype,
                                                  config_.kv_heads, config_.head_dim},
                                                 layer_bytes, limits));
  return local_ ? absl::OkStatus() : AllocateHost(api);
}

absl::Status CudaTransformer::AllocateHost(const cuda::CudaApi& api) {
  size_t width = 0, scales = 0;
  for (const WireFormat& format : wire_formats_) {
    width = std::max(width, format.padded_hidden());
    scales = std::max(scales, format.groups());
  }
  const size_t rows = limits_.rows_max, entries = rows * config_.top_k;
  size_t bytes = 0;
  const auto take = [&bytes](size_t size) {
    const size_t begin = bytes;
    bytes += (size + 255) / 256 * 256;
    return begin;
  };
  const size_t q = take(rows * width), s = take(rows * scales * sizeof(float)),
               normed = take(rows * config_.hidden * sizeof(float)),
               chosen = take(entries * sizeof(uint32_t)), weights = take(entries * sizeof(float)),
               slots = take(entries * sizeof(uint32_t));
  rows_memory_.api = replies_memory_.api = &api;
  OCTET_RETURN_IF_ERROR(
      CudaStatus(api, api.allocate_host(bytes, &rows_memory_.data), "page-locked memory for rows"));
  const size_t reply_bytes = entries * config_.hidden * sizeof(float);
  OCTET_RETURN_IF_ERROR(CudaStatus(api, api.allocate_host(reply_bytes, &replies_memory_.data),
                                   "page-locked memory for replies"));
  auto* memory = static_cast<uint8_t*>(rows_memory_.data);
  host_q_ = reinterpret_cast<int8_t*>(memory + q);
  host_scales_ = reinterpret_cast<float*>(memory + s);
  host_normed_ = reinterpret_cast<float*>(memory + normed);
  host_chosen_ = reinterpret_cast<uint32_t*>(memory + chosen);
  host_weights_ = reinterpret_cast<float*>(memory + weights);
  host_slots_ = reinterpret_cast<uint32_t*>(memory + slots);
  OCTET_ASSIGN_OR_RETURN(replies_, AllocateCuda(api, reply_bytes, "replies"));
  OCTET_ASSIGN_OR_RETURN(slots_, AllocateCuda(api, entries * sizeof(uint32_t), "slots"));
  reply_rows_.reserve(entries);
  by_address_.reserve(entries);
  return absl::OkStatus();
}

absl::Status CudaTransformer::Forward(const Batch& batch, size_t micro_batches,
                                      MonotonicTime give_up) {
  const absl::Status status = Compute(batch, give_up);
  Note(status);
  return status;
}

void CudaTransformer::Note(const absl::Status& status) const {
  if (absl::IsInternal(status) && on_failed_) on_failed_(status);
}

absl::Status CudaTransformer::Compute(const Batch& batch, MonotonicTime give_up) {
  OCTET_RETURN_IF_ERROR(step_->Begin(batch));
  if (local_) return step_->Layers();
  OCTET_RETURN_IF_ERROR(step_->Embed());
  for (uint32_t i = 0; i < config_.layers; ++i) {
    OCTET_RETURN_IF_ERROR(step_->AttentionAndGate(i));
    OCTET_RETURN_IF_ERROR(RemoteExperts(batch, LayerId(i), give_up));
  }
  return absl::OkStatus();
}

absl::StatusOr<WireRows> CudaTransformer::TakeRows(size_t rows, LayerId layer) {
  const cuda::CudaApi& api = step_->api();
  const cuda::Stream stream = step_->stream();
  const size_t entries = rows * config_.top_k;
  WireRows wire;
  wire.format = wire_formats_[layer.value()];
  wire.rows = rows;
  const size_t width = wire.format.padded_hidden(), groups = wire.format.groups();
  int error = 0;
  const auto fetch = [&](void* to, const void* from, size_t bytes) {
    if (error == 0) error = api.copy(stream, to, from, bytes);
  };
  if (rows_stay_) {
    wire.device = {DeviceKind::kCuda, model_->device};
    if (wire.format.is_integer()) {
      // Links only read them.
      wire.q = {rows, width, wire.format.activation_group, const_cast<int8_t*>(step_->wire_q()),
                const_cast<float*>(step_->wire_scales())};
    } else {
      wire.f32 = ConstTensorF32(step_->normed(), rows, config_.hidden, config_.hidden);
    }
  } else if (wire.format.is_integer()) {
    wire.q = {rows, width, wire.format.activation_group, host_q_, host_scales_};
    fetch(host_q_, step_->wire_q(), rows * width);
    fetch(host_scales_, step_->wire_scales(), rows * groups * sizeof(float));
  } else {
    wire.f32 = ConstTensorF32(host_normed_, rows, config_.hidden, config_.hidden);
    fetch(host_normed_, step_->normed(), rows * config_.hidden * sizeof(float));
  }
  fetch(host_chosen_, step_->chosen(), entries * sizeof(uint32_t));
  fetch(host_weights_, step_->weights(), entries * sizeof(float));
  // Also after an error: what was enqueued before it still reads them.
  const int ended = api.synchronize(stream);
  if (error == 0) error = ended;
  being_read_.clear();
  OCTET_RETURN_IF_ERROR(CudaStatus(api, error, "taking rows to the experts"));
  return wire;
}

absl::Status CudaTransformer::BringReplies(const std::vector<DeviceReply>& on_device) {
  const cuda::CudaApi& api = step_->api();
  const cuda::Stream stream = step_->stream();
  const size_t entries = reply_rows_.size(), hidden = config_.hidden;
  auto* staged = static_cast<float*>(replies_memory_.data);
  auto* replies = reinterpret_cast<float*>(replies_.get());
  // In the order of their addresses they are a few runs, one or more a reply.
  by_address_.resize(entries);
  std::iota(by_address_.begin(), by_address_.end(), 0u);
  std::sort(by_address_.begin(), by_address_.end(), [this](uint32_t a, uint32_t b) {
    return std::less<>()(reply_rows_[a], reply_rows_[b]);
  });
  // The reply on the device that holds a row; null for one on the host.
  const auto holder = [&](const float* row) -> const DeviceReply* {
    for (const DeviceReply& reply : on_device) {
      if (!std::less<>()(row, reply.rows) && std::less<>()(row, reply.rows + reply.floats)) {
        return &reply;
      }
    }
    return nullptr;
  };
  int error = 0;
  for (size_t begin = 0; begin < entries && error == 0;) {
    const float* const from = reply_rows_[by_address_[begin]];
    const DeviceReply* const reply = holder(from);
    // Not into another reply, which may lie right behind: a copy stays within one allocation.
    size_t end = begin + 1;
    for (; end < entries; ++end) {
      const float* const next = reply_rows_[by_address_[end]];
      if (next != from + (end - begin) * hidden || holder(next) != reply) break;
    }
    for (size_t i = begin; i < end; ++i) host_slots_[by_address_[i]] = static_cast<uint32_t>(i);
    const size_t bytes = (end - begin) * hidden * sizeof(float);
    const float* source = from;
    if (reply == nullptr) {
      std::memcpy(staged + begin * hidden, from, bytes);
      source = staged + begin * hidden;
    }
    error = api.copy(stream, replies + begin * hidden, source, bytes);
    begin = end;
  }
  if (error == 0) {
    error = api.copy(stream, slots_.get(), host_slots_, entries * sizeof(uint32_t));
  }
  return CudaStatus(api, error, "bringing replies back");
}

absl::Status CudaTransformer::RemoteExperts(const Batch& batch, LayerId layer,
                                            MonotonicTime give_up) {
  OCTET_ASSIGN_OR_RETURN(const WireRows wire, TakeRows(batch.rows(), layer));
  const TopK choice{wire.rows, config_.top_k, host_chosen_, host_weights_};
  const auto handle = dispatcher_->Dispatch(batch.step, 0, layer, batch.prefill, wire, choice);
  OCTET_RETURN_IF_ERROR(dispatcher_->Combine(*handle, give_up, &reply_rows_));
  OCTET_RETURN_IF_ERROR(step_->UseDevice());
  being_read_ = handle->device_replies();
  OCTET_RETURN_IF_ERROR(BringReplies(being_read_));
  return step_->Combine(reinterpret_cast<const uint32_t*>(slots_.get()),
                        reinterpret_cast<const float*>(replies_.get()));
}

absl::StatusOr<ConstTensorF32> CudaTransformer::Logits(const Batch& batch, size_t begin,
                                                       size_t count) {
  auto logits = step_->Logits(absl::MakeConstSpan(batch.logit_rows).subspan(begin, count));
  Note(logits.status());
  return logits;
}

}  // namespace octet
