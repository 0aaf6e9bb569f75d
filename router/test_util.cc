#include "router/test_util.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "model/safetensors.h"
#include "router/block_pool.h"
#include "router/cuda_transformer.h"
#include "transport/local/local_link.h"

namespace octet {

TempDirectory::TempDirectory() {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = absl::StrCat(base == nullptr ? "/tmp" : base, "/octet_router_XXXXXX");
  OCTET_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

namespace {

std::string GoldenPath(const std::string& name) {
  return absl::StrCat(OCTET_SOURCE_DIR, "/tests/golden/models/", name);
}

}  // namespace

std::shared_ptr<const ModelPackage> PackGolden(const std::string& name, const std::string& parent,
                                               const PackOptions& options) {
  std::string source = GoldenPath(name);
  if (std::filesystem::exists(absl::StrCat(source, "/model.gguf"))) source += "/model.gguf";
  const std::string destination =
      absl::StrCat(parent, "/", name, "-", options.experts, "-", options.attention, "-",
                   options.group, "-", options.reply);
  const auto quiet = [](absl::string_view, uint64_t, uint64_t) {};
  if (!std::filesystem::exists(destination)) {
    const absl::Status packed = PackModel(source, destination, options, quiet);
    OCTET_CHECK(packed.ok()) << name << ": " << packed.ToString();
  }
  auto package = ModelPackage::Open(destination, {}, quiet);
  OCTET_CHECK(package.ok()) << name << ": " << package.status().ToString();
  return *std::move(package);
}

Oracle ReadOracle(const std::string& name) {
  const std::string path = absl::StrCat(GoldenPath(name), "/oracle.safetensors");
  auto file = MappedFile::Open(path);
  OCTET_CHECK(file.ok()) << file.status().ToString();
  const auto header = ParseSafetensors((*file)->bytes(), path);
  OCTET_CHECK(header.ok()) << header.status().ToString();
  const SafetensorsEntry& ids = header->tensors.at("input_ids");
  const SafetensorsEntry& logits = header->tensors.at("logits");
  OCTET_CHECK(ids.dtype == "I32" && logits.dtype == "F32");
  Oracle oracle;
  oracle.ids.resize(ids.shape.at(0));
  std::memcpy(oracle.ids.data(), (*file)->data() + ids.begin, ids.bytes);
  oracle.vocab = logits.shape.at(1);
  oracle.logits.resize(logits.shape.at(0) * oracle.vocab);
  std::memcpy(oracle.logits.data(), (*file)->data() + logits.begin, logits.bytes);
  return oracle;
}

namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(uint32_t vocab) {
    for (uint32_t id = 0; id < vocab; ++id) {
      std::string piece =
          id < 256 ? std::string(1, static_cast<char>(id)) : absl::StrCat("<", id, ">");
      if (id == 256) piece = "</s>";
      bytes_.push_back(piece);
      pieces_.push_back(std::move(piece));
      special_.push_back(id == 256);
    }
    settings_.eos_ids = {256};
  }
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions&) const override {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string Serialize() const override { return ""; }
};

}  // namespace

std::unique_ptr<Tokenizer> MakeByteTokenizer(uint32_t vocab) {
  return std::make_unique<ByteTokenizer>(vocab);
}

std::shared_ptr<const Placement> ChainPlacement(const ModelPackage& package, uint32_t workers,
                                                uint32_t replication, uint64_t epoch) {
  auto placement = std::make_shared<Placement>();
  placement->epoch = Epoch(epoch);
  placement->compute_digest = package.compute_digest();
  placement->model_version = package.model_version();
  for (uint32_t w = 0; w < workers; ++w) placement->workers.push_back({WorkerId(w + 1), ""});
  for (uint32_t e = 0; e < package.config().experts; ++e) {
    std::vector<WorkerId> replicas;
    for (uint32_t r = 0; r < std::min(replication, workers); ++r) {
      replicas.push_back(WorkerId((e + r) % workers + 1));
    }
    placement->expert_replicas.push_back(std::move(replicas));
  }
  return placement;
}

LocalCluster::LocalCluster(std::shared_ptr<const ModelPackage> package, const Options& options,
                           const Clock* clock)
    : package_(std::move(package)), pool_(options.threads) {
  for (uint32_t e = 0; e < package_->config().experts; ++e) {
    auto expert = package_->MapExpert(ExpertId(e), 1);
    OCTET_CHECK(expert.ok()) << expert.status().ToString();
    experts_.push_back(*std::move(expert));
  }
  ctx_.level = options.level;
  ctx_.pool = &pool_;
  ctx_.arena = &arena_;
  DispatcherOptions dispatching;
  dispatching.router = RouterId(1);
  dispatching.compute_digest = package_->compute_digest();
  dispatching.model_version = package_->model_version();
  const LinkFactory links = [this](const PlacedWorker& worker) -> std::shared_ptr<ExpertLink> {
    const WorkerId id = worker.id;
    return std::make_shared<LocalLink>(
        [this, id](LayerId layer, ExpertId expert, const ExpertInput& input,
                   absl::Span<const uint32_t> rows,
                   TensorF32 out) { return Compute(id, layer, expert, input, rows, out); });
  };
  dispatcher_ = std::make_unique<TokenDispatcher>(dispatching, links, clock);
  if (options.workers > 0) {
    SetPlacement(ChainPlacement(*package_, options.workers, options.replication));
  }
}

void LocalCluster::SetPlacement(std::shared_ptr<const Placement> placement) {
  placement_ = placement;
  dispatcher_->SetPlacement(std::move(placement));
}

absl::Status LocalCluster::Compute(WorkerId worker, LayerId layer, ExpertId expert,
                                   const ExpertInput& input, absl::Span<const uint32_t> rows,
                                   TensorF32 out) {
  const std::vector<WorkerId>& replicas = placement_->Replicas(layer, expert);
  if (std::find(replicas.begin(), replicas.end(), worker) == replicas.end()) {
    return absl::NotFoundError("not held here");
  }
  ExpertFfn(ctx_, experts_[expert.value()].layers[layer.value()], input, rows, out);
  return absl::OkStatus();
}

LogitModel::LogitModel(std::shared_ptr<const ModelPackage> package, DType kv_dtype, Where where)
    : cluster_(package, {3, 2, 1, DetectCpuLevel()}, &clock_), pool_(1) {
  constexpr uint64_t kCacheBytes = 16u << 20;
  auto weights = package->MapRouter(1);
  OCTET_CHECK(weights.ok()) << weights.status().ToString();
  TransformerModel model = MakeTransformerModel(*package, *std::move(weights));
  ExecContext ctx;
  ctx.level = DetectCpuLevel();
  ctx.pool = &pool_;
  ctx.arena = &arena_;
  TransformerLimits limits;
  limits.rows_max = limits.logit_rows_max = kStepRows;
  if (where == Where::kHost) {
    auto cache = KvCache::Create(package->config(), kv_dtype, kCacheBytes);
    OCTET_CHECK(cache.ok()) << cache.status().ToString();
    cache_ = *std::move(cache);
    transformer_ = std::make_unique<Transformer>(std::move(model), limits, cache_.get(),
                                                 cluster_.dispatcher(), ctx);
    return;
  }
  CudaTransformerOptions cuda;
  cuda.limits = limits;
  cuda.kv_dtype = kv_dtype;
  cuda.kv_cache_bytes = kCacheBytes;
  if (where == Where::kCudaAll) cuda.experts = cluster_.experts();
  auto made = CudaTransformer::Create(model, cluster_.dispatcher(), ctx, cuda);
  OCTET_CHECK(made.ok()) << made.status().ToString();
  transformer_ = *std::move(made);
}

std::vector<float> LogitModel::Run(const std::vector<TokenId>& ids, size_t chunk,
                                   uint32_t first_block) {
  std::vector<BlockId> blocks;
  for (size_t b = 0; b < KvBlocksFor(ids.size()); ++b) {
    blocks.push_back(BlockId(first_block + static_cast<uint32_t>(b)));
  }
  std::vector<float> all;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const size_t rows = std::min(chunk, ids.size() - at);
    Batch batch;
    batch.step = StepId(++step_);
    BatchSequence sequence;
    sequence.rows = rows;
    sequence.position_begin = static_cast<uint32_t>(at);
    sequence.blocks = blocks.data();
    sequence.block_count = blocks.size();
    batch.sequences.push_back(sequence);
    for (size_t i = 0; i < rows; ++i) {
      batch.tokens.push_back(ids[at + i]);
      batch.positions.push_back(static_cast<uint32_t>(at + i));
      batch.logit_rows.push_back(static_cast<uint32_t>(i));
    }
    const absl::Status status = transformer_->Forward(batch, /*micro_batches=*/1, kNever);
    OCTET_CHECK(status.ok()) << status.ToString();
    const auto computed = transformer_->Logits(batch, 0, rows);
    OCTET_CHECK(computed.ok()) << computed.status().ToString();
    const ConstTensorF32& logits = *computed;
    for (size_t i = 0; i < rows; ++i) {
      all.insert(all.end(), logits.row(i), logits.row(i) + logits.cols);
    }
  }
  return all;
}

void CollectingSink::OnChunk(GenerationChunk chunk) {
  MutexLock lock(mu_);
  if (ends > 0) ++after_end;
  if (!chunk.token_ids.empty()) indices.push_back(chunk.index);
  tokens.insert(tokens.end(), chunk.token_ids.begin(), chunk.token_ids.end());
  text += chunk.text;
  for (TokenLogprob& l : chunk.logprobs) logprobs.push_back(std::move(l));
  for (TokenLogprob& l : chunk.prompt_logprobs) prompt_logprobs.push_back(std::move(l));
  changed_.NotifyAll();
}

void CollectingSink::OnFinished(GenerationResult r) {
  MutexLock lock(mu_);
  if (ends++ > 0) ++after_end;
  result = std::move(r);
  changed_.NotifyAll();
}

void CollectingSink::OnError(absl::Status s) {
  MutexLock lock(mu_);
  if (ends++ > 0) ++after_end;
  status = std::move(s);
  changed_.NotifyAll();
}

void CollectingSink::WaitEnd() {
  MutexLock lock(mu_);
  while (ends == 0) changed_.Wait(mu_);
}

void CollectingSink::WaitTokens(size_t count) {
  MutexLock lock(mu_);
  while (ends == 0 && tokens.size() < count) changed_.Wait(mu_);
}

}  // namespace octet
