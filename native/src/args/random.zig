//! Counter-based random numbers: Philox4x32-10, mesh.md §14; sampling of tokens, serving.md §7.
//!
//! Element e of a tensor depends on (key, e) only: counter (e>>2 low, e>>2 high, 0, 0), word e & 3.
//! Any range of a tensor can be filled alone, and the bits are the same at every instruction-set
//! level and for any number of threads. bf16 outputs are the f32 outputs rounded.

/// The raw words.
pub const RandomBits = extern struct {
    y: *anyopaque, // u32 [count], held in an i32 tensor
    first: u64, // global index of y[0]
    count: u64,
    key_low: u32,
    key_high: u32,
    pub const storage = .{f32}; // not used
};

/// low + (high − low)·(x>>8)·2⁻²⁴, rounded once.
pub const RandomUniform = extern struct {
    y: *anyopaque, // [count]
    first: u64,
    count: u64,
    key_low: u32,
    key_high: u32,
    low: f64, // −√3·std for an initialisation
    high: f64, // +√3·std
};

/// mean + std·z, z by Box–Muller from the word pairs (0, 1) and (2, 3), in f64, rounded once.
pub const RandomNormal = extern struct {
    y: *anyopaque, // [count]
    first: u64,
    count: u64,
    key_low: u32,
    key_high: u32,
    mean: f64,
    std: f64,
};

/// mean + std·z, z = Φ⁻¹ of one word, cut at ±2 (the variance is not corrected), rounded once.
pub const RandomTruncatedNormal = extern struct {
    y: *anyopaque, // [count]
    first: u64,
    count: u64,
    key_low: u32,
    key_high: u32,
    mean: f64,
    std: f64,
};

/// y = x/keep where kept, else 0. Kept: word f & 3 of counter (f>>2, position, sample, 0) is below
/// ⌊keep·2³²⌋. Run on dy with the same key it is its own backward pass.
pub const DropoutForward = extern struct {
    x: *const anyopaque, // [samples, positions, features]
    y: *anyopaque, // [samples, positions, features]; may be x
    samples: u64,
    positions: u64,
    features: u64,
    first_sample: u64, // row of sample 0 in the step's global batch; < 2³²
    first_position: u64, // position of x[·, 0, ·] in its sequence; < 2³²
    first_feature: u64, // global feature of x[·, ·, 0] (tensor parallel shards)
    keep: f64, // probability of keeping, in [0, 1]
    key_low: u32,
    key_high: u32,
};

/// One row of `CategoricalSample.settings`.
pub const SampleSettings = extern struct {
    temperature: f64, // 0 = greedy: the lowest id among the largest (so is anything not above 0)
    top_p: f64, // in [0, 1]; 1 = off; 0 keeps one id
    min_p: f64, // 0 = off
    top_k: f64, // a whole number; < 1 = off
};

/// One row of `CategoricalSample.draws`.
pub const SampleDraw = extern struct {
    key_low: u32, // XXH3-64("sample", seed)
    key_high: u32,
    position: u32, // generated position
    choice: u32,
    prompt: u32, // row of the prompt in the request
    spare: u32, // counter word 3, 0
};

/// token = inverse CDF at u of softmax(logits/T) after top-k, top-p, min-p, in that order, over the
/// kept ids in ascending order; u = ((x₀>>5)·2²⁶ + (x₁>>6))·2⁻⁵³. NaN logits are never drawn.
pub const CategoricalSample = extern struct {
    logits: *const anyopaque, // [rows, vocab], after biases and penalties
    settings: *const anyopaque, // SampleSettings [rows]: an f64 tensor [rows, 4]
    draws: *const anyopaque, // SampleDraw [rows]: an i32 tensor [rows, 6]
    tokens: *anyopaque, // i32 [rows]
    rows: u64,
    vocab: u64, // ≥ 1
};

pub const kernels = .{
    .{ "randomBits", RandomBits },
    .{ "randomUniform", RandomUniform },
    .{ "randomNormal", RandomNormal },
    .{ "randomTruncatedNormal", RandomTruncatedNormal },
    .{ "dropoutForward", DropoutForward },
    .{ "categoricalSample", CategoricalSample },
};
