// Built with AVX2, FMA and F16C. Includes nothing whose inline functions another file
// could share.
#include "kernels/x86/vec16_avx2.h"
// The vector type comes first: the rest is written over it.
#include "kernels/x86/row_kernels.h"
//
#include "kernels/x86/attention_kernels.h"
#include "kernels/x86/float_kernels.h"
#include "kernels/x86/int_avx2.h"
#include "kernels/x86/w4x_avx2.h"

namespace octet {

const KernelTable& Avx2Kernels() {
  using avx2::Codes;
  using avx2::IntPanels;
  using avx2::Scales;
  static constexpr KernelTable kTable = {
      avx2::kSignedOffset,
      avx2::kNibbleBiasMask,
      {IntPanels<Codes::kNibbles, Scales::kF16, false>,
       IntPanels<Codes::kNibbles, Scales::kF16, true>,
       IntPanels<Codes::kNibbles, Scales::kF16Min, false>,
       IntPanels<Codes::kNibbles, Scales::kSuper, false>,
       IntPanels<Codes::kFive, Scales::kF16, false>,
       IntPanels<Codes::kFive, Scales::kF16Min, false>,
       IntPanels<Codes::kFive, Scales::kSuper, false>,
       IntPanels<Codes::kSix, Scales::kHalves, false>,
       IntPanels<Codes::kSigned, Scales::kF16, false>,
       IntPanels<Codes::kSigned, Scales::kF16, true>},
      avx2::PrepareRow,
      avx2::W4xPanels,
      avx2::W4xBias,
      avx2::ColumnDot,
      avx2::QuantizeRow,
      avx2::FloatPanels,
      avx2::Attention,
      avx2::RmsNorm,
      avx2::AddRow,
      avx2::SiluMul,
      avx2::Softmax,
      avx2::Rope,
      avx2::Combine,
      avx2::ToHalf,
      avx2::MaxOf,
      avx2::SumExp,
      avx2::ExpScaled,
  };
  return kTable;
}

}  // namespace octet
