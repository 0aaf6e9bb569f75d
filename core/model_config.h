// Shape and arithmetic of a model, as every part of Octet sees it. Made by model/, checked there
// against core/limits.h, immutable afterwards.
#ifndef OCTET_CORE_MODEL_CONFIG_H_
#define OCTET_CORE_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/ids.h"

namespace octet {

enum class GateKind : uint8_t {
  kNone,       // dense model: one expert, weight exactly 1, no gate tensors
  kLinear,     // Mixtral: softmax over W x
  kAttention,  // Yuan2.0-M32: softmax(q kᵀ) v over experts, then softmax
};

struct ModelConfig {
  std::string architecture;  // "mixtral" or "llama", for people
  uint32_t layers = 0;
  uint32_t hidden = 0;
  uint32_t intermediate = 0;  // of one expert
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab = 0;
  uint32_t context = 0;         // positions the model was trained for
  uint32_t sliding_window = 0;  // 0: none; else a query at p sees positions > p - window
  uint32_t experts = 1;
  uint32_t top_k = 1;
  GateKind gate = GateKind::kNone;
  bool tied_embeddings = false;
  float rms_eps = 1e-5f;
  double rope_theta = 10000.0;
  TokenId bos_id = -1;  // -1: none
  std::vector<TokenId> eos_ids;
};

}  // namespace octet

#endif  // OCTET_CORE_MODEL_CONFIG_H_
