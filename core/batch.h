// The rows of one step: what the scheduler decided and the model computes. Plain data; every field
// names its writer, nobody else changes it.
#ifndef OCTET_CORE_BATCH_H_
#define OCTET_CORE_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/ids.h"

namespace octet {

// Consecutive positions of one request inside a step.
struct BatchSequence {
  RequestId request;            // scheduler
  size_t row_begin = 0;         // scheduler: first row of the step that is this request's
  size_t rows = 0;              // scheduler: at least one
  uint32_t position_begin = 0;  // scheduler: absolute position of the first row
  // Scheduler: block table covering position_begin + rows positions. Owned by the scheduler, valid
  // until its next change of state.
  const BlockId* blocks = nullptr;
  size_t block_count = 0;  // scheduler
  // Scheduler: rows whose logits are wanted are logit_rows[logit_begin .. logit_begin +
  // logit_count) of the batch; the last of them is sampled where `sample` is set.
  size_t logit_begin = 0;
  size_t logit_count = 0;
  bool sample = false;  // scheduler: the last row gives the next token
};

struct Batch {
  StepId step;                           // scheduler: grows by one with each plan
  bool prefill = false;                  // scheduler: some sequence has more than one row
  std::vector<TokenId> tokens;           // scheduler, [rows]
  std::vector<uint32_t> positions;       // scheduler, [rows]: absolute position in its sequence
  std::vector<BatchSequence> sequences;  // scheduler: decoding first, then prefill
  std::vector<uint32_t> logit_rows;      // scheduler: ascending rows that need logits

  size_t rows() const { return tokens.size(); }
  bool empty() const { return tokens.empty(); }
  void Clear() {
    prefill = false;
    tokens.clear();
    positions.clear();
    sequences.clear();
    logit_rows.clear();
  }
};

}  // namespace octet

#endif  // OCTET_CORE_BATCH_H_
