// The gated MLP of the llama family (SwiGLU, Shazeer 2020): down(silu(gate(x)) * up(x)).
#include "stages/parts.h"

namespace penstock {
namespace {

class DenseMlp final : public Mlp {
 public:
  DenseMlp(const BuildContext& context, const DenseMlpConfig& config, const std::string& prefix)
      : ops_(context.ops),
        width_(config.intermediate_size),
        dtype_(context.spec.dtype),
        projection_dtype_(context.ops.projection_dtype(context.spec.dtype)) {
    const int64_t hidden = context.config.hidden_size;
    const auto gate_up = [&](const char* what) {
      return std::vector<WeightPart>{{prefix + "gate_proj." + what, width_},
                                     {prefix + "up_proj." + what, width_}};
    };
    gate_up_2FD_ = load_matrix(context, gate_up("weight"), hidden);
    down_DF_ = load_matrix(context, {{prefix + "down_proj.weight", hidden}}, width_);
    if (config.bias) {
      gate_up_bias_2F_ = load_vector(context, gate_up("bias"));
      down_bias_D_ = load_vector(context, {{prefix + "down_proj.bias", hidden}});
    }
  }

  size_t weight_bytes() const override {
    size_t bytes = gate_up_2FD_->bytes() + down_DF_->bytes();
    if (down_bias_D_) bytes += gate_up_bias_2F_.view.bytes() + down_bias_D_.view.bytes();
    return bytes;
  }

  size_t scratch_bytes(int64_t tokens) const override {
    return Scratch::bytes_for(projection_dtype_, {tokens, 2 * width_}) +
           Scratch::bytes_for(dtype_, {tokens, width_});
  }

  void forward(TensorView x_TD, TensorView h_TD, Scratch& scratch) override {
    const int64_t tokens = h_TD.dim(0);
    const TensorView gate_up_T2F = scratch.take(projection_dtype_, {tokens, 2 * width_});
    const TensorView y_TF = scratch.take(dtype_, {tokens, width_});
    ops_.gated_matmul(y_TF, gate_up_T2F, h_TD, *gate_up_2FD_, gate_up_bias_2F_);
    ops_.matmul(x_TD, y_TF, *down_DF_, down_bias_D_, Into::add);
  }

 private:
  Ops& ops_;
  int64_t width_;
  DType dtype_;
  DType projection_dtype_;
  std::unique_ptr<Matrix> gate_up_2FD_;  // rows: gate, then up
  std::unique_ptr<Matrix> down_DF_;
  Tensor gate_up_bias_2F_;
  Tensor down_bias_D_;
};

}  // namespace

std::unique_ptr<Mlp> make_dense_mlp(const BuildContext& context, const DenseMlpConfig& config,
                                    const std::string& prefix) {
  return std::make_unique<DenseMlp>(context, config, prefix);
}

}  // namespace penstock
