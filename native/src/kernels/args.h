// Generated from native/src/args and native/src/cuda by `zig build args`. Do not edit.
#pragma once
#include <stdint.h>

enum DType : int32_t {
  DType_f32 = 0,
  DType_bf16 = 1,
  DType_f16 = 2,
  DType_f64 = 3,
  DType_i32 = 4,
  DType_u8 = 5,
};

constexpr int max_rank = 8;

enum Unary : uint32_t {
  Unary_neg = 0,
  Unary_abs = 1,
  Unary_exp = 2,
  Unary_log = 3,
  Unary_sqrt = 4,
  Unary_rsqrt = 5,
  Unary_square = 6,
  Unary_reciprocal = 7,
  Unary_sigmoid = 8,
  Unary_tanh = 9,
  Unary_silu = 10,
  Unary_gelu_erf = 11,
  Unary_gelu_tanh = 12,
  Unary_relu = 13,
  Unary_relu2 = 14,
  Unary_selu = 15,
  Unary_softplus = 16,
  Unary_log_sigmoid = 17,
  Unary_sin = 18,
  Unary_cos = 19,
  Unary_soft_cap = 20,
  Unary_scale = 21,
  Unary_add_scalar = 22,
  Unary_pow_scalar = 23,
  Unary_clamp_min = 24,
  Unary_clamp_max = 25,
};

struct UnaryForward {
  void const* x;
  void* y;
  uint64_t shape[8];
  uint64_t x_strides[8];
  uint64_t rank;
  double parameter;
  Unary op;
};
static_assert(sizeof(UnaryForward) == 168, "UnaryForward");

struct UnaryBackward {
  void const* dy;
  void const* saved;
  void* dx;
  uint64_t count;
  double parameter;
  Unary op;
};
static_assert(sizeof(UnaryBackward) == 48, "UnaryBackward");

enum Binary : uint32_t {
  Binary_add = 0,
  Binary_sub = 1,
  Binary_mul = 2,
  Binary_div = 3,
  Binary_maximum = 4,
  Binary_minimum = 5,
  Binary_eq = 6,
  Binary_lt = 7,
  Binary_le = 8,
  Binary_gt = 9,
  Binary_ge = 10,
};

struct BinaryForward {
  void const* a;
  void const* b;
  void* y;
  uint64_t shape[8];
  uint64_t a_strides[8];
  uint64_t b_strides[8];
  uint64_t rank;
  Binary op;
};
static_assert(sizeof(BinaryForward) == 232, "BinaryForward");

struct Where {
  void const* mask;
  void const* a;
  void const* b;
  void* y;
  uint64_t shape[8];
  uint64_t mask_strides[8];
  uint64_t a_strides[8];
  uint64_t b_strides[8];
  uint64_t rank;
};
static_assert(sizeof(Where) == 296, "Where");

struct Copy {
  void const* from;
  void* to;
  uint64_t shape[8];
  uint64_t from_strides[8];
  uint64_t to_strides[8];
  uint64_t rank;
  DType from_dtype;
  DType to_dtype;
};
static_assert(sizeof(Copy) == 224, "Copy");

struct Fill {
  void* y;
  uint64_t count;
  double value;
  DType dtype;
};
static_assert(sizeof(Fill) == 32, "Fill");

struct Arange {
  void* y;
  uint64_t count;
  double start;
  double step;
  DType dtype;
};
static_assert(sizeof(Arange) == 40, "Arange");

enum Reduction : uint32_t {
  Reduction_sum = 0,
  Reduction_mean = 1,
  Reduction_max = 2,
  Reduction_min = 3,
  Reduction_sum_squares = 4,
  Reduction_logsumexp = 5,
};

struct Reduce {
  void const* x;
  void* y;
  uint64_t kept_shape[8];
  uint64_t kept_strides[8];
  uint64_t reduced_shape[8];
  uint64_t reduced_strides[8];
  uint64_t kept_rank;
  uint64_t reduced_rank;
  Reduction op;
  uint32_t wide;
};
static_assert(sizeof(Reduce) == 296, "Reduce");

struct GatedActivationForward {
  void const* gate;
  void const* up;
  void* y;
  uint64_t rows;
  uint64_t width;
  uint64_t gate_stride;
  uint64_t up_stride;
  Unary op;
};
static_assert(sizeof(GatedActivationForward) == 64, "GatedActivationForward");

struct GatedActivationBackward {
  void const* dy;
  void const* gate;
  void const* up;
  void* dgate;
  void* dup;
  uint64_t rows;
  uint64_t width;
  uint64_t gate_stride;
  uint64_t up_stride;
  uint64_t dgate_stride;
  uint64_t dup_stride;
  Unary op;
};
static_assert(sizeof(GatedActivationBackward) == 96, "GatedActivationBackward");

struct GlobalSumSquares {
  void const* const* data;
  uint64_t const* counts;
  void* out;
  uint64_t tensors;
};
static_assert(sizeof(GlobalSumSquares) == 32, "GlobalSumSquares");

struct Matmul {
  void const* a;
  void const* b;
  void* c;
  void const* bias;
  void const* residual;
  uint64_t batch;
  uint64_t m;
  uint64_t n;
  uint64_t k;
  uint64_t a_batch_stride;
  uint64_t a_row_stride;
  uint64_t a_column_stride;
  uint64_t b_batch_stride;
  uint64_t b_row_stride;
  uint64_t b_column_stride;
  uint64_t c_batch_stride;
  uint64_t c_row_stride;
  double alpha;
  int32_t a_dtype;
  int32_t b_dtype;
  int32_t c_dtype;
  uint32_t accumulate;
};
static_assert(sizeof(Matmul) == 160, "Matmul");

struct Term {
  void const* a;
  void const* b;
  uint64_t k;
  uint64_t a_row_stride;
  uint64_t b_row_stride;
  uint64_t b_column_stride;
};
static_assert(sizeof(Term) == 48, "Term");

struct MatmulParts {
  void const* terms;
  void* c;
  void const* bias;
  uint64_t count;
  uint64_t m;
  uint64_t n;
  uint64_t parts;
};
static_assert(sizeof(MatmulParts) == 56, "MatmulParts");

constexpr int most_parts = 8;

struct Strides {
  uint64_t batch;
  uint64_t step;
  uint64_t head;
};
static_assert(sizeof(Strides) == 24, "Strides");

constexpr int input_gate_exp = 0;
constexpr int input_gate_sigmoid = 1;

constexpr int reset_none = 0;
constexpr int reset_exact = 1;
constexpr int reset_soft = 2;

constexpr int form_chunkwise = 0;
constexpr int form_parallel = 1;
constexpr int form_recurrent = 2;

struct MlstmForward {
  void const* q;
  void const* k;
  void const* v;
  void const* i;
  void const* f;
  void const* c0;
  void const* n0;
  void const* m0;
  void const* borders;
  void const* lengths;
  void* h;
  void* sigma;
  void* m;
  void* c_last;
  void* n_last;
  void* m_last;
  void* records;
  Strides q_strides;
  Strides k_strides;
  Strides v_strides;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width_qk;
  uint64_t width_v;
  uint64_t chunk;
  double eps;
  double reset_value;
  uint32_t input_gate;
  uint32_t normalize;
  uint32_t reset;
  uint32_t form;
};
static_assert(sizeof(MlstmForward) == 288, "MlstmForward");

constexpr int grad_mode_frozen = 0;
constexpr int grad_mode_exact = 1;

struct MlstmBackward {
  void const* q;
  void const* k;
  void const* v;
  void const* i;
  void const* f;
  void const* c0;
  void const* n0;
  void const* m0;
  void const* borders;
  void const* lengths;
  void const* h;
  void const* sigma;
  void const* records;
  void const* dh;
  void const* dc_last;
  void const* dn_last;
  void const* dm_last;
  void* dq;
  void* dk;
  void* dv;
  void* di;
  void* df;
  void* dc0;
  void* dn0;
  void* dm0;
  Strides q_strides;
  Strides k_strides;
  Strides v_strides;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width_qk;
  uint64_t width_v;
  uint64_t chunk;
  double eps;
  double reset_value;
  uint32_t input_gate;
  uint32_t normalize;
  uint32_t reset;
  uint32_t form;
  uint32_t mode;
  uint32_t eps_term;
};
static_assert(sizeof(MlstmBackward) == 360, "MlstmBackward");

struct MlstmStep {
  void const* q;
  void const* k;
  void const* v;
  void const* i;
  void const* f;
  void const* slots;
  void* c;
  void* n;
  void* m;
  void* h;
  Strides q_strides;
  Strides k_strides;
  Strides v_strides;
  uint64_t rows;
  uint64_t heads;
  uint64_t width_qk;
  uint64_t width_v;
  double eps;
  uint32_t input_gate;
  uint32_t normalize;
};
static_assert(sizeof(MlstmStep) == 200, "MlstmStep");

struct SlstmForward {
  void const* wx;
  void const* r;
  void const* b;
  void const* initial;
  void const* borders;
  void const* lengths;
  void* y;
  void* saved;
  void* last;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width;
  uint32_t function;
  double clip;
};
static_assert(sizeof(SlstmForward) == 120, "SlstmForward");

constexpr int saved_planes = 6;

struct SlstmBackward {
  void const* dy;
  void const* dlast;
  void const* r;
  void const* initial;
  void const* borders;
  void const* lengths;
  void const* saved;
  void* dwx;
  void* dr;
  void* db;
  void* dinitial;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width;
  uint32_t function;
  double clip;
  uint32_t recurrent_cut;
  double recurrent_clip;
};
static_assert(sizeof(SlstmBackward) == 152, "SlstmBackward");

struct SlstmStep {
  void const* wx;
  void const* r;
  void const* b;
  void const* slots;
  void* state;
  void* y;
  uint64_t rows;
  uint64_t heads;
  uint64_t width;
  uint32_t function;
  double clip;
};
static_assert(sizeof(SlstmStep) == 88, "SlstmStep");

struct ConvForward {
  void const* x;
  void const* weight;
  void const* bias;
  void const* state;
  void const* borders;
  void const* lengths;
  void* y;
  void* last;
  uint64_t batch;
  uint64_t length;
  uint64_t channels;
  uint64_t taps;
  uint64_t x_stride;
  uint32_t silu;
};
static_assert(sizeof(ConvForward) == 112, "ConvForward");

struct ConvBackward {
  void const* dy;
  void const* x;
  void const* weight;
  void const* bias;
  void const* state;
  void const* borders;
  void const* lengths;
  void const* dlast;
  void* dx;
  void* dweight;
  void* dbias;
  void* dstate;
  uint64_t batch;
  uint64_t length;
  uint64_t channels;
  uint64_t taps;
  uint64_t x_stride;
  uint64_t dx_stride;
  uint32_t silu;
};
static_assert(sizeof(ConvBackward) == 152, "ConvBackward");

struct ConvStep {
  void const* x;
  void const* weight;
  void const* bias;
  void const* slots;
  void* state;
  void* y;
  uint64_t rows;
  uint64_t channels;
  uint64_t taps;
  uint64_t x_stride;
  uint32_t silu;
};
static_assert(sizeof(ConvStep) == 88, "ConvStep");

struct HeadwiseForward {
  void const* x;
  void const* weight;
  void const* bias;
  void* y;
  uint64_t rows;
  uint64_t blocks;
  uint64_t inputs;
  uint64_t outputs;
  uint64_t x_stride;
  uint64_t y_stride;
};
static_assert(sizeof(HeadwiseForward) == 80, "HeadwiseForward");

struct HeadwiseBackward {
  void const* dy;
  void const* x;
  void const* weight;
  void* dx;
  void* dweight;
  void* dbias;
  uint64_t rows;
  uint64_t blocks;
  uint64_t inputs;
  uint64_t outputs;
  uint64_t x_stride;
  uint64_t y_stride;
  uint64_t dx_stride;
};
static_assert(sizeof(HeadwiseBackward) == 104, "HeadwiseBackward");

struct NormForward {
  void const* x;
  void const* residual;
  void const* scale;
  void const* bias;
  void* y;
  void* sum;
  void* mean;
  void* rstd;
  uint64_t rows;
  uint64_t groups;
  uint64_t width;
  double eps;
  double scale_offset;
  uint32_t center;
};
static_assert(sizeof(NormForward) == 112, "NormForward");

struct NormBackward {
  void const* dy;
  void const* x;
  void const* scale;
  void const* mean;
  void const* rstd;
  void const* dsum;
  void* dx;
  void* dscale;
  void* dbias;
  uint64_t rows;
  uint64_t groups;
  uint64_t width;
  double scale_offset;
  uint32_t center;
};
static_assert(sizeof(NormBackward) == 112, "NormBackward");

struct HeadNormGateForward {
  void const* h;
  void const* o;
  void const* scale;
  void const* bias;
  void* y;
  void* mean;
  void* rstd;
  uint64_t rows;
  uint64_t groups;
  uint64_t width;
  uint64_t o_stride;
  double eps;
  double scale_offset;
  uint32_t center;
};
static_assert(sizeof(HeadNormGateForward) == 112, "HeadNormGateForward");

struct HeadNormGateBackward {
  void const* dy;
  void const* h;
  void const* o;
  void const* scale;
  void const* bias;
  void const* mean;
  void const* rstd;
  void* dh;
  void* do_;
  void* dscale;
  void* dbias;
  void* inner;
  uint64_t rows;
  uint64_t groups;
  uint64_t width;
  uint64_t o_stride;
  uint64_t do_stride;
  double eps;
  double scale_offset;
  uint32_t center;
};
static_assert(sizeof(HeadNormGateBackward) == 160, "HeadNormGateBackward");

struct SoftmaxForward {
  void const* x;
  void* y;
  uint64_t rows;
  uint64_t width;
};
static_assert(sizeof(SoftmaxForward) == 32, "SoftmaxForward");

struct SoftmaxBackward {
  void const* dy;
  void const* y;
  void* dx;
  uint64_t rows;
  uint64_t width;
};
static_assert(sizeof(SoftmaxBackward) == 40, "SoftmaxBackward");

using LogSoftmaxForward = SoftmaxForward;

using LogSoftmaxBackward = SoftmaxBackward;

struct CrossEntropyForward {
  void const* logits;
  void const* targets;
  void const* mask;
  void const* weights;
  void* loss;
  void* count;
  void* weight_sum;
  void* correct;
  void* loss_rows;
  void* lse;
  uint64_t rows;
  uint64_t vocab;
  double soft_cap;
  double label_smoothing;
  double z_loss;
};
static_assert(sizeof(CrossEntropyForward) == 120, "CrossEntropyForward");

struct CrossEntropyBackward {
  void const* logits;
  void const* targets;
  void const* mask;
  void const* weights;
  void const* lse;
  void const* dloss;
  void const* dloss_rows;
  void* dlogits;
  uint64_t rows;
  uint64_t vocab;
  double soft_cap;
  double label_smoothing;
  double z_loss;
  double grad_scale;
};
static_assert(sizeof(CrossEntropyBackward) == 112, "CrossEntropyBackward");

struct LinearCrossEntropy {
  void const* hidden;
  void const* weight;
  void const* targets;
  void const* mask;
  void const* weights;
  void* loss;
  void* count;
  void* weight_sum;
  void* correct;
  void* loss_rows;
  void* lse;
  void* dhidden;
  void* dweight;
  uint64_t rows;
  uint64_t width;
  uint64_t vocab;
  double soft_cap;
  double label_smoothing;
  double z_loss;
  double grad_scale;
  uint32_t accumulate_dweight;
  int32_t weight_dtype;
};
static_assert(sizeof(LinearCrossEntropy) == 168, "LinearCrossEntropy");

struct SplitSoftmaxSums {
  void const* logits;
  void const* columns;
  void const* top;
  void* sums;
  uint64_t rows;
  uint64_t vocab;
  double soft_cap;
  uint32_t parts;
  uint32_t wants_total;
};
static_assert(sizeof(SplitSoftmaxSums) == 64, "SplitSoftmaxSums");

struct SplitSoftmaxSlopes {
  void* logits;
  void const* columns;
  void const* top;
  void const* scale;
  void const* rest;
  void const* own;
  uint64_t rows;
  uint64_t vocab;
  double soft_cap;
};
static_assert(sizeof(SplitSoftmaxSlopes) == 72, "SplitSoftmaxSlopes");

struct RangeCheck {
  void const* ids;
  void const* mask;
  void const* weights;
  void* low;
  void* high;
  uint64_t count;
  uint64_t limit;
};
static_assert(sizeof(RangeCheck) == 56, "RangeCheck");

struct EmbeddingForward {
  void const* table;
  void const* ids;
  void* y;
  uint64_t rows;
  uint64_t vocab;
  uint64_t width;
  int32_t table_dtype;
};
static_assert(sizeof(EmbeddingForward) == 56, "EmbeddingForward");

struct EmbeddingBackward {
  void const* dy;
  void const* ids;
  void* dtable;
  uint64_t rows;
  uint64_t vocab;
  uint64_t width;
};
static_assert(sizeof(EmbeddingBackward) == 48, "EmbeddingBackward");

struct GatherRows {
  void const* x;
  void const* indices;
  void* y;
  uint64_t count;
  uint64_t rows;
  uint64_t width;
};
static_assert(sizeof(GatherRows) == 48, "GatherRows");

struct ScatterAddRows {
  void const* x;
  void const* indices;
  void* y;
  uint64_t count;
  uint64_t rows;
  uint64_t width;
};
static_assert(sizeof(ScatterAddRows) == 48, "ScatterAddRows");

struct IndexSelect {
  void const* x;
  void const* indices;
  void* y;
  uint64_t outer;
  uint64_t count;
  uint64_t selected;
  uint64_t inner;
};
static_assert(sizeof(IndexSelect) == 56, "IndexSelect");

struct IndexAdd {
  void const* dy;
  void const* indices;
  void* dx;
  uint64_t outer;
  uint64_t count;
  uint64_t selected;
  uint64_t inner;
};
static_assert(sizeof(IndexAdd) == 56, "IndexAdd");

struct TakeAlong {
  void const* x;
  void const* indices;
  void* y;
  uint64_t rows;
  uint64_t width;
  uint64_t picks;
};
static_assert(sizeof(TakeAlong) == 48, "TakeAlong");

struct TakeAlongBackward {
  void const* dy;
  void const* indices;
  void* dx;
  uint64_t rows;
  uint64_t width;
  uint64_t picks;
};
static_assert(sizeof(TakeAlongBackward) == 48, "TakeAlongBackward");

struct Argmax {
  void const* x;
  void* indices;
  void* values;
  uint64_t rows;
  uint64_t width;
};
static_assert(sizeof(Argmax) == 40, "Argmax");

struct TopK {
  void const* x;
  void* values;
  void* indices;
  uint64_t rows;
  uint64_t width;
  uint64_t k;
};
static_assert(sizeof(TopK) == 48, "TopK");

struct RandomBits {
  void* y;
  uint64_t first;
  uint64_t count;
  uint32_t key_low;
  uint32_t key_high;
};
static_assert(sizeof(RandomBits) == 32, "RandomBits");

struct RandomUniform {
  void* y;
  uint64_t first;
  uint64_t count;
  uint32_t key_low;
  uint32_t key_high;
  double low;
  double high;
};
static_assert(sizeof(RandomUniform) == 48, "RandomUniform");

struct RandomNormal {
  void* y;
  uint64_t first;
  uint64_t count;
  uint32_t key_low;
  uint32_t key_high;
  double mean;
  double std;
};
static_assert(sizeof(RandomNormal) == 48, "RandomNormal");

struct RandomTruncatedNormal {
  void* y;
  uint64_t first;
  uint64_t count;
  uint32_t key_low;
  uint32_t key_high;
  double mean;
  double std;
};
static_assert(sizeof(RandomTruncatedNormal) == 48, "RandomTruncatedNormal");

struct DropoutForward {
  void const* x;
  void* y;
  uint64_t samples;
  uint64_t positions;
  uint64_t features;
  uint64_t first_sample;
  uint64_t first_position;
  uint64_t first_feature;
  double keep;
  uint32_t key_low;
  uint32_t key_high;
};
static_assert(sizeof(DropoutForward) == 80, "DropoutForward");

struct SampleSettings {
  double temperature;
  double top_p;
  double min_p;
  double top_k;
};
static_assert(sizeof(SampleSettings) == 32, "SampleSettings");

struct SampleDraw {
  uint32_t key_low;
  uint32_t key_high;
  uint32_t position;
  uint32_t choice;
  uint32_t prompt;
  uint32_t spare;
};
static_assert(sizeof(SampleDraw) == 24, "SampleDraw");

struct CategoricalSample {
  void const* logits;
  void const* settings;
  void const* draws;
  void* tokens;
  uint64_t rows;
  uint64_t vocab;
};
static_assert(sizeof(CategoricalSample) == 48, "CategoricalSample");

enum Rule : uint32_t {
  Rule_sgd = 0,
  Rule_momentum = 1,
  Rule_nesterov = 2,
  Rule_adam = 3,
  Rule_nadam = 4,
  Rule_adamax = 5,
  Rule_radam = 6,
  Rule_lamb = 7,
  Rule_ademamix = 8,
};

enum Phase : uint32_t {
  Phase_whole = 0,
  Phase_norms = 1,
  Phase_update = 2,
};

struct OptimizerStep {
  void* parameter;
  void const* gradient;
  void* first;
  void* second;
  void* third;
  void* shadow;
  void const* factor;
  void const* schedule;
  void* norms;
  uint64_t count;
  uint64_t step;
  double learning_rate;
  double beta1;
  double beta2;
  double beta3;
  double alpha;
  double eps;
  double weight_decay;
  double gradient_scale;
  double clip_value;
  uint32_t rule;
  uint32_t phase;
};
static_assert(sizeof(OptimizerStep) == 168, "OptimizerStep");

struct ClipFactor {
  void const* squares;
  void const* bad;
  void* norm;
  void* factor;
  uint64_t count;
  double max_norm;
};
static_assert(sizeof(ClipFactor) == 48, "ClipFactor");

struct Ceiling {
  void* out;
  uint64_t tasks;
  uint64_t loops;
};
static_assert(sizeof(Ceiling) == 24, "Ceiling");

constexpr int chains = 12;

struct Fault {
  uint32_t code;
  uint32_t limit;
  int32_t low;
  int32_t high;
};
static_assert(sizeof(Fault) == 16, "Fault");

struct Walk {
  uint64_t shape[8];
  uint64_t strides[24];
  uint64_t count;
  uint64_t rank;
  uint64_t pack;
};
static_assert(sizeof(Walk) == 280, "Walk");

struct UnaryPlan {
  Walk walk;
  void const* x;
  void* y;
  double parameter;
  Unary op;
};
static_assert(sizeof(UnaryPlan) == 312, "UnaryPlan");

struct UnaryBackwardPlan {
  Walk walk;
  void const* dy;
  void const* saved;
  void* dx;
  double parameter;
  Unary op;
};
static_assert(sizeof(UnaryBackwardPlan) == 320, "UnaryBackwardPlan");

struct BinaryPlan {
  Walk walk;
  void const* a;
  void const* b;
  void* y;
  Binary op;
};
static_assert(sizeof(BinaryPlan) == 312, "BinaryPlan");

struct WherePlan {
  Walk walk;
  void const* mask;
  void const* a;
  void const* b;
  void* y;
};
static_assert(sizeof(WherePlan) == 312, "WherePlan");

struct CopyPlan {
  Walk walk;
  void const* from;
  void* to;
};
static_assert(sizeof(CopyPlan) == 296, "CopyPlan");

struct TransposePlan {
  Walk outer;
  void const* from;
  void* to;
  uint64_t rows;
  uint64_t columns;
  uint64_t from_column_stride;
  uint64_t to_row_stride;
};
static_assert(sizeof(TransposePlan) == 328, "TransposePlan");

struct ReducePlan {
  Walk kept;
  Walk reduced;
  void const* x;
  void* y;
  void* parts;
  uint64_t outputs;
  uint64_t terms;
  uint64_t pieces;
  uint64_t piece;
  Reduction op;
  uint32_t wide;
};
static_assert(sizeof(ReducePlan) == 624, "ReducePlan");

struct SquaresPlan {
  void const* data[120];
  uint64_t counts[120];
  uint64_t first[120];
  void* parts;
  void* out;
  uint64_t tensors;
  uint64_t blocks;
};
static_assert(sizeof(SquaresPlan) == 2912, "SquaresPlan");

struct SkinnyPlan {
  Matmul call;
  uint32_t split;
  uint32_t chunk;
  uint32_t aligned;
};
static_assert(sizeof(SkinnyPlan) == 176, "SkinnyPlan");

struct MlstmProblem {
  void const* q;
  void const* k;
  void const* v;
  float const* i;
  float const* f;
  float const* c0;
  float const* n0;
  float const* m0;
  uint8_t const* borders;
  int32_t const* lengths;
  void const* h;
  float* sigma;
  float* m;
  float* c_last;
  float* n_last;
  float* m_last;
  void const* dh;
  float const* dc_last;
  float const* dn_last;
  float const* dm_last;
  void* dq;
  void* dk;
  void* dv;
  float* di;
  float* df;
  float* dc0;
  float* dn0;
  float* dm0;
  float* u_high;
  float* u_low;
  float* w_high;
  float* w_low;
  float* alpha;
  float* beta;
  float* floor;
  float* gamma;
  int32_t* start;
  int32_t* winner;
  int32_t* last_winner;
  float* states;
  float* dstates;
  float* inverse;
  float* y;
  float* inner;
  double* dlf;
  double* dli;
  double* products;
  Strides q_strides;
  Strides k_strides;
  Strides v_strides;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width_qk;
  uint64_t width_v;
  uint64_t chunks;
  uint64_t first_unit;
  double scale;
  double reset_value;
  float eps;
  uint32_t sigmoid;
  uint32_t normalize;
  uint32_t exact_reset;
  uint32_t soft_reset;
  uint32_t exact;
  uint32_t eps_term;
};
static_assert(sizeof(MlstmProblem) == 552, "MlstmProblem");

struct MlstmStepPlan {
  void const* q;
  void const* k;
  void const* v;
  float const* i;
  float const* f;
  int32_t const* slots;
  float* c;
  float* n;
  float* m;
  void* h;
  float* factors;
  Strides q_strides;
  Strides k_strides;
  Strides v_strides;
  uint64_t heads;
  uint64_t width_qk;
  uint64_t width_v;
  float scale;
  float eps;
  uint32_t sigmoid;
  uint32_t normalize;
};
static_assert(sizeof(MlstmStepPlan) == 200, "MlstmStepPlan");

struct SlstmForwardPlan {
  void const* wx;
  float const* r;
  float const* b;
  float const* initial;
  uint8_t const* borders;
  int32_t const* lengths;
  void* y;
  float* saved;
  float* last;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width;
  uint32_t function;
  float clip;
  uint32_t staged;
};
static_assert(sizeof(SlstmForwardPlan) == 120, "SlstmForwardPlan");

struct SlstmBackwardPlan {
  void const* dy;
  float const* dlast;
  float const* r;
  float* turned;
  float const* initial;
  uint8_t const* borders;
  int32_t const* lengths;
  float const* saved;
  void* dwx;
  float* draw;
  float* dr;
  float* db;
  float* dinitial;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width;
  uint64_t range;
  uint32_t function;
  float clip;
  float recurrent_clip;
  uint32_t recurrent_cut;
  uint32_t staged;
};
static_assert(sizeof(SlstmBackwardPlan) == 168, "SlstmBackwardPlan");

struct SlstmSumPlan {
  float const* parts;
  float* to;
  uint64_t count;
  uint64_t ranges;
};
static_assert(sizeof(SlstmSumPlan) == 32, "SlstmSumPlan");

struct SlstmStepPlan {
  void const* wx;
  float const* r;
  float const* b;
  int32_t const* slots;
  float* state;
  float* raw;
  void* y;
  uint64_t rows;
  uint64_t heads;
  uint64_t width;
  uint32_t function;
  float clip;
};
static_assert(sizeof(SlstmStepPlan) == 88, "SlstmStepPlan");

struct SlstmResidentPlan {
  void const* dy;
  float const* dlast;
  float const* r;
  float const* initial;
  uint8_t const* borders;
  int32_t const* lengths;
  void const* saved;
  void* dwx;
  void* past;
  float* db;
  float* dinitial;
  uint64_t batch;
  uint64_t length;
  uint64_t heads;
  uint64_t width;
  float clip;
  float recurrent_clip;
  uint32_t recurrent_cut;
};
static_assert(sizeof(SlstmResidentPlan) == 136, "SlstmResidentPlan");

struct SlstmWeightsPlan {
  void const* past;
  void const* dwx;
  float* dr;
  uint64_t tokens;
  uint64_t heads;
  uint64_t width;
  uint64_t range;
};
static_assert(sizeof(SlstmWeightsPlan) == 56, "SlstmWeightsPlan");

struct ConvForwardPlan {
  ConvForward call;
  uint64_t tile;
  uint64_t row_blocks;
};
static_assert(sizeof(ConvForwardPlan) == 128, "ConvForwardPlan");

struct ConvBackwardPlan {
  ConvBackward call;
  uint64_t tile;
  uint64_t row_blocks;
  void* weight_partial;
  void* bias_partial;
  void* slopes;
};
static_assert(sizeof(ConvBackwardPlan) == 192, "ConvBackwardPlan");

struct HeadwiseForwardPlan {
  HeadwiseForward call;
  uint64_t per_block;
};
static_assert(sizeof(HeadwiseForwardPlan) == 88, "HeadwiseForwardPlan");

struct HeadwiseBackwardPlan {
  HeadwiseBackward call;
  void* weight_partial;
  void* bias_partial;
  uint64_t per_block;
};
static_assert(sizeof(HeadwiseBackwardPlan) == 128, "HeadwiseBackwardPlan");

struct HeadwiseProduct {
  void const* a;
  void const* b;
  void* c;
  void const* bias;
  void* sums;
  uint64_t m;
  uint64_t n;
  uint64_t k;
  uint64_t blocks;
  uint64_t share;
  uint64_t a_block;
  uint64_t a_row;
  uint64_t a_depth;
  uint64_t b_block;
  uint64_t b_column;
  uint64_t b_depth;
  uint64_t c_block;
  uint64_t c_row;
  uint64_t c_part;
};
static_assert(sizeof(HeadwiseProduct) == 152, "HeadwiseProduct");

struct NormBackwardPlan {
  NormBackward call;
  void* scale_partial;
  void* bias_partial;
  uint64_t per_block;
};
static_assert(sizeof(NormBackwardPlan) == 136, "NormBackwardPlan");

struct HeadNormGateBackwardPlan {
  HeadNormGateBackward call;
  void* scale_partial;
  void* bias_partial;
  uint64_t per_block;
};
static_assert(sizeof(HeadNormGateBackwardPlan) == 184, "HeadNormGateBackwardPlan");

struct PartialSum {
  void const* partial;
  void* out;
  uint64_t rows;
  uint64_t columns;
};
static_assert(sizeof(PartialSum) == 32, "PartialSum");

struct LossRows {
  void const* logits;
  void* dlogits;
  void const* targets;
  void const* mask;
  void const* weights;
  void* losses;
  void* hits;
  void* loss_rows;
  void* lse;
  uint64_t vocab;
  uint64_t stride;
  double soft_cap;
  double label_smoothing;
  double z_loss;
  double grad_scale;
};
static_assert(sizeof(LossRows) == 120, "LossRows");

struct LossSums {
  void const* losses;
  void const* hits;
  void const* targets;
  void const* mask;
  void const* weights;
  void* loss;
  void* count;
  void* weight_sum;
  void* correct;
  void* fault;
  uint64_t rows;
  uint64_t vocab;
};
static_assert(sizeof(LossSums) == 96, "LossSums");

struct KeptRows {
  void const* from;
  void* to;
  void const* mask;
  void const* weights;
  uint64_t width;
};
static_assert(sizeof(KeptRows) == 40, "KeptRows");

struct RangePlan {
  void const* ids;
  void* kept;
  void const* mask;
  void const* weights;
  void* fault;
  void* parts;
  uint64_t count;
  uint64_t part_count;
  uint64_t limit;
};
static_assert(sizeof(RangePlan) == 72, "RangePlan");

struct SelectPlan {
  void const* x;
  void const* indices;
  void* y;
  uint64_t outer;
  uint64_t count;
  uint64_t selected;
  uint64_t inner;
};
static_assert(sizeof(SelectPlan) == 56, "SelectPlan");

struct AddPlan {
  void const* dy;
  void const* indices;
  void* dx;
  uint64_t outer;
  uint64_t count;
  uint64_t selected;
  uint64_t inner;
  uint64_t tiles;
};
static_assert(sizeof(AddPlan) == 64, "AddPlan");

struct ListPlan {
  void const* dy;
  void const* indices;
  void* dx;
  void* cursors;
  void* sizes;
  void* finished;
  void* starts;
  void* list;
  void* order;
  void* longs;
  void* chunks;
  void* parts;
  uint64_t outer;
  uint64_t count;
  uint64_t selected;
  uint64_t inner;
  uint64_t slices;
  uint32_t rows;
  uint32_t long_blocks;
  uint32_t chunk_blocks;
  uint32_t reserved;
};
static_assert(sizeof(ListPlan) == 152, "ListPlan");

struct TopKPlan {
  void const* x;
  void* values;
  void* indices;
  void* keys;
  uint64_t rows;
  uint64_t width;
  uint64_t k;
  uint64_t padded;
};
static_assert(sizeof(TopKPlan) == 64, "TopKPlan");

struct SamplePlan {
  CategoricalSample call;
  void* scores;
  void* ids;
  uint64_t padded;
};
static_assert(sizeof(SamplePlan) == 72, "SamplePlan");

struct Schedule {
  double learning_rate;
  float rate;
  float beta3;
  float rest3;
  float correction1;
  float correction2;
  float ahead;
  float now;
  float rectifier;
  float alpha;
  float unused;
};
static_assert(sizeof(Schedule) == 48, "Schedule");

struct OptimizerTensor {
  void* parameter;
  void const* gradient;
  void* first;
  void* second;
  void* third;
  void* shadow;
  void* norms;
  uint64_t count;
  uint32_t first_block;
  float decay;
};
static_assert(sizeof(OptimizerTensor) == 72, "OptimizerTensor");

struct OptimizerPlan {
  OptimizerTensor tensors[48];
  void const* factor;
  void const* schedule;
  void* parts;
  double gradient_scale;
  Schedule now;
  float beta1;
  float beta2;
  float rest1;
  float rest2;
  float eps;
  float limit;
  uint32_t count;
  uint32_t blocks;
};
static_assert(sizeof(OptimizerPlan) == 3568, "OptimizerPlan");

