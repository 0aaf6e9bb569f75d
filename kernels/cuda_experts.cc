#include "kernels/cuda_experts.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/check.h"
#include "core/status_macros.h"
#include "kernels/cuda_library.h"

namespace octet {
namespace {

size_t AlignUp(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Dense rows of an input, as bytes.
struct RowBytes {
  explicit RowBytes(const ExpertInput& input) {
    if (input.q.q == nullptr) {
      OCTET_CHECK_EQ(input.f32.stride, input.f32.cols);
      rows = reinterpret_cast<const uint8_t*>(input.f32.data);
      row_bytes = input.f32.cols * sizeof(float);
      return;
    }
    rows = reinterpret_cast<const uint8_t*>(input.q.q);
    row_bytes = input.q.padded_k;
    scales = reinterpret_cast<const uint8_t*>(input.q.scales);
    scale_bytes = input.q.padded_k / input.q.group * sizeof(float);
  }
  const uint8_t* rows = nullptr;
  size_t row_bytes = 0;
  const uint8_t* scales = nullptr;
  size_t scale_bytes = 0;
};

}  // namespace

CudaExpertsInput::CudaExpertsInput(size_t experts, size_t entries, size_t row_bytes,
                                   size_t scale_bytes) {
  const auto take = [this](size_t size) {
    const size_t begin = bytes;
    bytes += AlignUp(size);
    return begin;
  };
  table = take(experts * sizeof(cuda::ExpertMatrices));
  offsets = take((experts + 1) * sizeof(uint32_t));
  indices = take(entries * sizeof(uint32_t));
  sources = take(entries * sizeof(uint32_t));
  scales = take(entries * scale_bytes);
  rows = take(entries * row_bytes);
}

CudaExperts::CudaExperts(const cuda::CudaApi& api, int device, size_t rows_max,
                         ExpertNumerics numerics)
    : api_(api), device_(device), rows_max_(rows_max), numerics_(numerics) {}

absl::StatusOr<std::unique_ptr<CudaExperts>> CudaExperts::Create(int device, size_t rows_max,
                                                                 ExpertNumerics numerics) {
  OCTET_ASSIGN_OR_RETURN(const cuda::CudaApi* api, OpenCudaApi());
  OCTET_RETURN_IF_ERROR(CheckCudaDevice(*api, device));
  OCTET_RETURN_IF_ERROR(CudaStatus(*api, api->set_device(device), "choosing the device"));
  std::unique_ptr<CudaExperts> out(new CudaExperts(*api, device, rows_max, numerics));
  OCTET_RETURN_IF_ERROR(CudaStatus(*api, api->create_stream(&out->stream_), "making a stream"));
  return out;
}

CudaExperts::~CudaExperts() {
  if (stream_ != nullptr) (void)api_.synchronize(stream_);
  for (const Buffer* b : {&device_in_, &device_out_, &scratch_}) {
    if (b->data != nullptr) api_.release(b->data);
  }
  for (const Buffer* b : {&host_in_, &host_out_}) {
    if (b->data != nullptr) api_.release_host(b->data);
  }
  if (stream_ != nullptr) api_.destroy_stream(stream_);
}

absl::StatusOr<DeviceExpert> CudaExperts::Upload(absl::Span<const ExpertWeights> layers) const {
  return UploadExpert(api_, device_, layers, numerics_);
}

absl::Status CudaExperts::Reserve(size_t in_bytes, size_t out_bytes, size_t scratch_bytes) {
  const auto grow = [this](Buffer* b, size_t bytes, bool host) -> absl::Status {
    if (b->bytes >= bytes) return absl::OkStatus();
    if (b->data != nullptr) host ? api_.release_host(b->data) : api_.release(b->data);
    *b = {};
    const int error = host ? api_.allocate_host(bytes, &b->data) : api_.allocate(bytes, &b->data);
    OCTET_RETURN_IF_ERROR(CudaStatus(api_, error, "memory for rows"));
    b->bytes = bytes;
    return absl::OkStatus();
  };
  OCTET_RETURN_IF_ERROR(grow(&host_in_, in_bytes, true));
  OCTET_RETURN_IF_ERROR(grow(&host_out_, out_bytes, true));
  OCTET_RETURN_IF_ERROR(grow(&device_in_, in_bytes, false));
  OCTET_RETURN_IF_ERROR(grow(&device_out_, out_bytes, false));
  return grow(&scratch_, scratch_bytes, false);
}

void CudaExperts::Fill(absl::Span<const DeviceExpertRows> parts, bool in_place,
                       const CudaExpertsInput& layout) {
  auto* in = static_cast<uint8_t*>(host_in_.data);
  auto* table = reinterpret_cast<cuda::ExpertMatrices*>(in + layout.table);
  auto* offsets = reinterpret_cast<uint32_t*>(in + layout.offsets);
  auto* indices = reinterpret_cast<uint32_t*>(in + layout.indices);
  auto* sources = reinterpret_cast<uint32_t*>(in + layout.sources);
  uint32_t entry = 0, expert = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    if (p == 0 || parts[p].weights != parts[p - 1].weights) {
      table[expert] = MatricesOf(*parts[p].weights);
      offsets[expert++] = entry;
    }
    const RowBytes x(*parts[p].input);
    // The rows travel in the order of the entries.
    for (const uint32_t row : parts[p].rows) {
      indices[entry] = in_place ? row : entry;
      sources[entry] = row;
      if (!parts[p].on_device) {
        std::memcpy(in + layout.rows + entry * x.row_bytes, x.rows + row * x.row_bytes,
                    x.row_bytes);
        if (x.scale_bytes > 0) {
          std::memcpy(in + layout.scales + entry * x.scale_bytes, x.scales + row * x.scale_bytes,
                      x.scale_bytes);
        }
      }
      ++entry;
    }
  }
  offsets[expert] = entry;
}

int CudaExperts::GatherOnDevice(absl::Span<const DeviceExpertRows> parts,
                                const CudaExpertsInput& layout) {
  auto* in = static_cast<uint8_t*>(device_in_.data);
  const auto* sources = reinterpret_cast<const uint32_t*>(in + layout.sources);
  size_t entry = 0;
  for (const DeviceExpertRows& part : parts) {
    const RowBytes x(*part.input);
    const size_t count = part.rows.size();
    int error = 0;
    if (part.on_device) {
      error = api_.gather_rows(stream_, x.rows, x.row_bytes, sources + entry, count,
                               in + layout.rows + entry * x.row_bytes);
    }
    if (part.on_device && error == 0 && x.scale_bytes > 0) {
      error = api_.gather_rows(stream_, x.scales, x.scale_bytes, sources + entry, count,
                               in + layout.scales + entry * x.scale_bytes);
    }
    if (error != 0) return error;
    entry += count;
  }
  return 0;
}

int CudaExperts::ScatterOnDevice(absl::Span<const DeviceExpertRows> parts, const float* results) {
  for (const DeviceExpertRows& part : parts) {
    const size_t floats = part.rows.size() * part.out.cols;
    if (part.on_device && part.out.data != results) {
      const int error = api_.copy(stream_, part.out.data, results, floats * sizeof(float));
      if (error != 0) return error;
    }
    results += floats;
  }
  return 0;
}

absl::Status CudaExperts::Run(absl::Span<const DeviceExpertRows> parts) {
  OCTET_CHECK(!parts.empty());
  OCTET_RETURN_IF_ERROR(CudaStatus(api_, api_.set_device(device_), "choosing the device"));
  size_t entries = 0, experts = 0, of_expert = 0, most = 0;
  bool any_host = false, one_input = true, dense = true;
  const TensorF32& first_out = parts[0].out;
  for (size_t p = 0; p < parts.size(); ++p) {
    const bool another = p == 0 || parts[p].weights != parts[p - 1].weights;
    experts += another ? 1 : 0;
    any_host = any_host || !parts[p].on_device;
    one_input = one_input && parts[p].input == parts[0].input;
    dense = dense && parts[p].out.data == first_out.data + entries * first_out.cols;
    of_expert = (another ? 0 : of_expert) + parts[p].rows.size();
    most = std::max(most, of_expert);
    entries += parts[p].rows.size();
  }
  OCTET_CHECK_LE(entries, rows_max_);
  if (entries == 0) return absl::OkStatus();
  const bool in_place = !any_host && one_input;
  const cuda::ExpertMatrices shape = MatricesOf(*parts[0].weights);
  const RowBytes x(*parts[0].input);
  const size_t hidden = shape.down.n, out_bytes = entries * hidden * sizeof(float);
  const bool exact = numerics_ == ExpertNumerics::kExact;
  const auto groups_count = static_cast<uint32_t>(experts);
  const CudaExpertsInput layout(experts, entries, x.row_bytes, x.scale_bytes);
  OCTET_RETURN_IF_ERROR(
      Reserve(layout.bytes, out_bytes,
              exact ? api_.moe_scratch_bytes(shape, groups_count, entries)
                    : api_.moe_scratch_bytes_bf16(hidden, shape.gate.n, groups_count, entries)));
  Fill(parts, in_place, layout);
  auto* in = static_cast<uint8_t*>(device_in_.data);
  auto* results = static_cast<float*>(!any_host && dense ? first_out.data : device_out_.data);
  const cuda::RowGroups groups{groups_count, reinterpret_cast<const uint32_t*>(in + layout.offsets),
                               reinterpret_cast<const uint32_t*>(in + layout.indices),
                               static_cast<uint32_t>(most), static_cast<uint32_t>(entries)};
  // The rows themselves come last, so that those on the device need not travel.
  int error = api_.copy(stream_, in, host_in_.data, any_host ? layout.bytes : layout.scales);
  if (error == 0 && !in_place) error = GatherOnDevice(parts, layout);
  if (error == 0) {
    const auto* table = reinterpret_cast<const cuda::ExpertMatrices*>(in + layout.table);
    const uint8_t* const rows = in_place ? x.rows : in + layout.rows;
    const uint8_t* const scales = in_place ? x.scales : in + layout.scales;
    error = exact
                ? api_.moe_ffn(stream_, shape, table, groups, reinterpret_cast<const int8_t*>(rows),
                               reinterpret_cast<const float*>(scales), scratch_.data, results)
                : api_.moe_ffn_bf16(stream_, hidden, shape.gate.n, table, groups,
                                    reinterpret_cast<const float*>(rows), scratch_.data, results);
  }
  if (error == 0) error = ScatterOnDevice(parts, results);
  if (error == 0 && any_host) error = api_.copy(stream_, host_out_.data, results, out_bytes);
  // Also after an error: what was enqueued before it reads memory that the next call fills again.
  const int ended = api_.synchronize(stream_);
  if (error == 0) error = ended;
  OCTET_RETURN_IF_ERROR(CudaStatus(api_, error, "computing experts"));
  const auto* result = static_cast<const float*>(host_out_.data);
  for (const DeviceExpertRows& part : parts) {
    for (size_t r = 0; r < part.rows.size(); ++r, result += hidden) {
      if (!part.on_device) std::memcpy(part.out.row(r), result, hidden * sizeof(float));
    }
  }
  return absl::OkStatus();
}

uint64_t CudaExperts::FreeBytes() const {
  uint64_t bytes = 0;
  if (api_.set_device(device_) != 0 || api_.memory_free(&bytes) != 0) return 0;
  return bytes;
}

std::string CudaExperts::Description() const {
  cuda::DeviceProperties p{};
  if (api_.device_properties(device_, &p) != 0) return absl::StrCat("CUDA device ", device_);
  return absl::StrFormat("%s, %.1f GiB", p.name, static_cast<double>(p.memory_bytes) / (1u << 30));
}

}  // namespace octet
