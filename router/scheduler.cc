#include "router/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace octet {

namespace {

// Share of itl_ms_max that a step may be predicted to take; the rest covers what the prediction
// does not know.
constexpr double kItlShare = 0.8;
// Standard safety against steps that overrun their prediction, in mean overruns.
constexpr double kOverrunMargin = 2;
constexpr double kTrimMin = 0.2;
// Prefill goes on at this pace even where no chunk fits in itl_ms_max.
constexpr size_t kPrefillRowsMin = 8;
// Beside decoding requests, before the first prefill step was measured.
constexpr size_t kPrefillRowsUnknown = 32;
// How much longer a step may take for the sake of resumed requests: the gap of each of them lasts
// until its last row is computed, and longer steps compute more rows in the same time.
constexpr size_t kResumedFactor = 2;

// Blocks that may come from the prefix cache: positions whose logits are wanted are computed, the
// last one among them.
size_t ReusableBlocks(const ScheduledRequest& request) {
  size_t positions = request.tokens.size() - 1;
  if (request.prompt_logprobs && request.logits_from + 1 < request.prompt_tokens) {
    positions = request.logits_from;
  }
  return positions / kKvBlockPositions;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      pool_({options.kv_blocks, options.prefix_cache, options.compute_digest, nullptr}) {
  OCTET_CHECK_GE(options_.step_tokens_max, options_.running_max);
  OCTET_CHECK_GE(options_.running_max, 1u);
  running_.reserve(options_.running_max);
  plan_.batch.tokens.reserve(options_.step_tokens_max);
  plan_.batch.positions.reserve(options_.step_tokens_max);
  plan_.batch.logit_rows.reserve(options_.step_tokens_max);
  plan_.batch.sequences.reserve(options_.running_max);
}

absl::Status Scheduler::Submit(ScheduledRequest request) {
  if (KvBlocksFor(request.tokens_max) > pool_.total()) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt: ", request.tokens.size(), " tokens can never fit the cache of ",
                     pool_.total() * kKvBlockPositions, " positions"));
  }
  if (waiting_.size() >= options_.waiting_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_.size(), " requests wait"));
  }
  OCTET_CHECK(!request.tokens.empty() && request.tokens_max >= request.tokens.size());
  const RequestId id = request.id;
  auto [it, added] = requests_.emplace(id, std::make_unique<ScheduledRequest>(std::move(request)));
  OCTET_CHECK(added) << "request id used twice";
  waiting_.emplace(it->second->age(), it->second.get());
  return absl::OkStatus();
}

void Scheduler::Remove(RequestId id) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  pool_.Release(&it->second->table);
  waiting_.erase(it->second->age());
  std::erase(running_, it->second.get());
  requests_.erase(it);
}

const StepPlan& Scheduler::Plan(MonotonicTime now) {
  plan_.batch.Clear();
  plan_.batch.step = StepId(++step_);
  plan_.shape = StepShape();
  plan_.expired.clear();
  plan_.admitted.clear();
  plan_.preempted.clear();
  plan_.loads.clear();
  full_blocks_.clear();
  Expire(now);
  PreemptByHook();
  PlanDecode();
  PlanPrefill();
  // Requests in prefill may together hold every block. The youngest gives way until one can go on;
  // the oldest alone always fits.
  while (plan_.batch.empty() && running_.size() > 1) {
    PreemptYoungest();
    PlanPrefill();
  }
  return plan_;
}

void Scheduler::Expire(MonotonicTime now) {
  for (const auto& [id, request] : requests_) {
    if (request->deadline <= now) plan_.expired.push_back(id);
  }
  for (const RequestId id : plan_.expired) Remove(id);
}

void Scheduler::PreemptByHook() {
  if (options_.preempt_every_steps == 0 || step_ % options_.preempt_every_steps != 0) return;
  // Only a request that gained a token since it was admitted, so that every one reaches its end.
  if (!running_.empty() && running_.back()->progressed) PreemptYoungest();
}

void Scheduler::PreemptYoungest() {
  ScheduledRequest* request = running_.back();
  running_.pop_back();
  pool_.Release(&request->table);
  request->computed = 0;
  request->progressed = false;
  ++request->preemptions;
  waiting_.emplace(request->age(), request);
  plan_.preempted.push_back(request->id);
}

void Scheduler::PlanDecode() {
  for (size_t i = 0; i < running_.size(); ++i) {
    ScheduledRequest* request = running_[i];
    if (request->pending() != 1) continue;
    // Victims are younger than this request or the request itself, so none has rows yet.
    while (i < running_.size() &&
           !pool_.Grow(&request->table, KvBlocksFor(request->tokens.size()))) {
      PreemptYoungest();
    }
    if (i < running_.size()) AddRows(request, 1);
  }
}

Scheduler::PrefillBudget Scheduler::RowsForPrefill() const {
  const size_t room = options_.step_tokens_max - plan_.batch.rows();
  if (options_.chunk_tokens != 0) {
    const size_t rows = std::min<size_t>(options_.chunk_tokens, room);
    return {rows, rows};
  }
  if (plan_.batch.empty()) return {room, room};
  if (!cost_.knows_prefill()) {
    return {std::min(kPrefillRowsUnknown, room),
            std::min(kPrefillRowsUnknown * kResumedFactor, room)};
  }
  size_t position = 0;
  for (const ScheduledRequest* request : running_) {
    if (request->pending() > 1) position = std::max<size_t>(position, request->computed);
  }
  if (options_.sliding_window != 0) position = std::min<size_t>(position, options_.sliding_window);
  const auto rows_within = [&](double itl_ms) {
    const double target = kItlShare * trim_ * itl_ms - kOverrunMargin * cost_.overrun_ms();
    const size_t rows = PrefillRowsWithin(cost_, plan_.shape, position, target, room);
    return std::min(std::max(rows, kPrefillRowsMin), room);
  };
  return {rows_within(options_.itl_ms_max), rows_within(options_.itl_ms_max * kResumedFactor)};
}

void Scheduler::PlanPrefill() {
  PrefillBudget budget = RowsForPrefill();
  bool room = true;  // for the oldest that waits; nobody in the queue overtakes it
  for (size_t i = 0; i < running_.size() && budget.resumed > 0; ++i) {
    while (room && !waiting_.empty() && waiting_.begin()->first < running_[i]->age()) {
      room = AdmitAndPrefill(&budget);
      if (room) ++i;  // it stands before this one now
    }
    if (running_[i]->pending() > 1) PrefillRunning(running_[i], &budget);
  }
  while (room && !waiting_.empty()) room = AdmitAndPrefill(&budget);
}

void Scheduler::PrefillRunning(ScheduledRequest* request, PrefillBudget* budget) {
  const size_t blocks = request->table.blocks.size() + pool_.available();
  const size_t room = blocks * kKvBlockPositions - request->computed;
  const size_t rows = std::min({request->pending(), budget->For(*request), room});
  if (rows == 0) return;
  OCTET_CHECK(pool_.Grow(&request->table, KvBlocksFor(request->computed + rows)));
  AddRows(request, rows);
  budget->Take(rows);
}

// Blocks that running requests in prefill still need for what they have to compute.
size_t Scheduler::BlocksPromised() const {
  size_t promised = 0;
  for (const ScheduledRequest* request : running_) {
    const size_t need = KvBlocksFor(request->tokens.size());
    promised += need - std::min(need, request->table.blocks.size());
  }
  return promised;
}

bool Scheduler::AdmitAndPrefill(PrefillBudget* budget) {
  ScheduledRequest* request = waiting_.begin()->second;
  if (running_.size() >= options_.running_max || budget->For(*request) == 0) return false;
  const PrefixMatch match = pool_.Find(request->tokens, ReusableBlocks(*request), &request->table);
  // Blocks that it shares with running requests take none.
  const size_t need = KvBlocksFor(request->tokens.size()) - (match.blocks.size() - match.idle);
  if (need + BlocksPromised() > pool_.available()) return false;
  Admit(request, match);
  const size_t rows = std::min(request->pending(), budget->For(*request));
  OCTET_CHECK(pool_.Grow(&request->table, KvBlocksFor(request->computed + rows)));
  AddRows(request, rows);
  budget->Take(rows);
  return true;
}

void Scheduler::Admit(ScheduledRequest* request, const PrefixMatch& match) {
  waiting_.erase(request->age());
  // An older request that was preempted must not be overtaken by running ones either, so running_
  // stays ordered by age.
  const auto at = std::upper_bound(
      running_.begin(), running_.end(), request,
      [](const ScheduledRequest* a, const ScheduledRequest* b) { return a->age() < b->age(); });
  running_.insert(at, request);
  request->tokens.reserve(request->tokens_max);
  request->table.Reserve(request->tokens_max);
  request->computed = static_cast<uint32_t>(match.positions());
  pool_.Adopt(match, &request->table);
  request->stored = std::max(request->stored, match.blocks.size());
  TakeStaged(request);
  request->reused = request->reused || request->computed > 0;
  plan_.admitted.push_back(request->id);
  if (!options_.prefix_cache || request->preemptions > 0) return;
  request->cached_tokens = std::min(request->computed, request->prompt_tokens);
  prefix_stats_.queries += request->prompt_tokens;
  prefix_stats_.hits += request->cached_tokens;
}

void Scheduler::TakeStaged(ScheduledRequest* request) {
  size_t next = request->table.blocks.size();
  const size_t end =
      std::min(request->staged_begin + request->staged.size(), ReusableBlocks(*request));
  for (; next >= request->staged_begin && next < end; ++next) {
    // Admission saw room for all of the request's blocks.
    OCTET_CHECK(pool_.Grow(&request->table, next + 1));
    plan_.loads.push_back(
        {request->table.blocks[next], std::move(request->staged[next - request->staged_begin])});
    request->computed += kKvBlockPositions;
  }
  request->staged.clear();
  request->stored = std::max(request->stored, next);
}

KvTierKey Scheduler::NameOf(ScheduledRequest* request, size_t block) {
  const absl::Span<const TokenId> tokens = request->tokens;
  const auto own = tokens.subspan(block * kKvBlockPositions, kKvBlockPositions);
  KvTierKey name;
  name.previous = pool_.PreviousKey(tokens, block, &request->table);
  name.key = pool_.Key(tokens, block, &request->table);
  name.tokens.assign(own.begin(), own.end());
  return name;
}

std::vector<KvTierKey> Scheduler::MissingBlocks(ScheduledRequest* request, size_t* begin) {
  std::vector<KvTierKey> missing;
  const size_t reusable = ReusableBlocks(*request);
  *begin = pool_.Find(request->tokens, reusable, &request->table).blocks.size();
  for (size_t i = *begin; i < reusable; ++i) missing.push_back(NameOf(request, i));
  return missing;
}

void Scheduler::NoteFull(ScheduledRequest* request) {
  for (; (request->stored + 1) * kKvBlockPositions <= request->computed; ++request->stored) {
    full_blocks_.push_back(
        {request->table.blocks[request->stored], NameOf(request, request->stored)});
  }
}

void Scheduler::AddRows(ScheduledRequest* request, size_t rows) {
  Batch& batch = plan_.batch;
  BatchSequence sequence;
  sequence.request = request->id;
  sequence.row_begin = batch.rows();
  sequence.rows = rows;
  sequence.position_begin = request->computed;
  sequence.blocks = request->table.blocks.data();
  sequence.block_count = request->table.blocks.size();
  sequence.logit_begin = batch.logit_rows.size();
  sequence.sample = rows == request->pending();
  for (size_t i = 0; i < rows; ++i) {
    const uint32_t position = request->computed + static_cast<uint32_t>(i);
    const bool prompt_row = request->prompt_logprobs && position >= request->logits_from &&
                            position + 1 < request->prompt_tokens;
    if (prompt_row || (sequence.sample && i + 1 == rows)) {
      batch.logit_rows.push_back(static_cast<uint32_t>(batch.rows()));
    }
    batch.tokens.push_back(request->tokens[position]);
    batch.positions.push_back(position);
    const uint32_t seen = position + 1;
    plan_.shape.attended +=
        options_.sliding_window == 0 ? seen : std::min(seen, options_.sliding_window);
  }
  sequence.logit_count = batch.logit_rows.size() - sequence.logit_begin;
  batch.sequences.push_back(sequence);
  plan_.shape.rows += rows;
  if (rows > 1) batch.prefill = plan_.shape.prefill = true;
}

void Scheduler::CommitStep() {
  for (const BatchSequence& sequence : plan_.batch.sequences) {
    const auto it = requests_.find(sequence.request);
    if (it == requests_.end()) continue;
    ScheduledRequest* request = it->second.get();
    request->computed += static_cast<uint32_t>(sequence.rows);
    request->logits_from =
        std::max(request->logits_from, std::min(request->computed, request->prompt_tokens - 1));
    pool_.Enter(request->tokens, request->computed, &request->table);
    if (options_.kv_tier) NoteFull(request);
  }
}

void Scheduler::ObserveStep(double ms) {
  if (ms <= 0) return;
  cost_.Observe(plan_.shape, ms);
  const std::vector<BatchSequence>& sequences = plan_.batch.sequences;
  const bool mixed = plan_.shape.prefill && !sequences.empty() && sequences.front().rows == 1;
  if (mixed && ms > options_.itl_ms_max) {
    trim_ = std::max(kTrimMin, trim_ * 0.8);
  } else {
    trim_ = std::min(1.0, trim_ * 1.01);
  }
}

void Scheduler::CommitToken(RequestId id, TokenId token) {
  const auto it = requests_.find(id);
  OCTET_CHECK(it != requests_.end()) << "token for an unknown request";
  OCTET_CHECK_EQ(it->second->pending(), 0u);
  it->second->tokens.push_back(token);
  it->second->progressed = true;
}

void Scheduler::ForgetCache() {
  while (!running_.empty()) PreemptYoungest();
  for (auto& entry : waiting_) {
    entry.second->staged.clear();
    entry.second->stored = 0;
  }
  pool_.Forget();
}

const ScheduledRequest* Scheduler::Find(RequestId id) const {
  const auto it = requests_.find(id);
  return it == requests_.end() ? nullptr : it->second.get();
}

}  // namespace octet
