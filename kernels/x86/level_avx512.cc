// Built with AVX-512 (F, BW, DQ, VL, VNNI). Includes nothing whose inline functions another file
// could share.
#include "kernels/x86/vec16_avx512.h"
// The vector type comes first: the rest is written over it.
#include "kernels/x86/row_kernels.h"
//
#include "kernels/x86/attention_kernels.h"
#include "kernels/x86/float_kernels.h"
#include "kernels/x86/int_avx512.h"
#include "kernels/x86/w4x_avx512.h"

namespace octet {

const KernelTable& Avx512Kernels() {
  using avx512::Codes;
  using avx512::IntPanels;
  using avx512::Scales;
  static constexpr KernelTable kTable = {
      avx512::kSignedOffset,
      avx512::kNibbleBiasMask,
      {IntPanels<Codes::kNibbles, Scales::kF16, false>,
       IntPanels<Codes::kNibbles, Scales::kF16, true>,
       IntPanels<Codes::kNibbles, Scales::kF16Min, false>,
       IntPanels<Codes::kNibbles, Scales::kSuper, false>,
       IntPanels<Codes::kBytes, Scales::kF16, false>,
       IntPanels<Codes::kBytes, Scales::kF16Min, false>,
       IntPanels<Codes::kBytes, Scales::kSuper, false>,
       IntPanels<Codes::kBytes, Scales::kHalves, false>,
       IntPanels<Codes::kSigned, Scales::kF16, false>,
       IntPanels<Codes::kSigned, Scales::kF16, true>},
      avx512::PrepareRow,
      avx512::W4xPanels,
      avx512::W4xBias,
      avx512::QuantizeRow,
      avx512::FloatPanels,
      avx512::Attention,
      avx512::RmsNorm,
      avx512::AddRow,
      avx512::SiluMul,
      avx512::Softmax,
      avx512::Rope,
      avx512::Combine,
      avx512::ToHalf,
      avx512::MaxOf,
      avx512::SumExp,
      avx512::ExpScaled,
  };
  return kTable;
}

}  // namespace octet
