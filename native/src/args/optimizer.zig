//! Optimiser updates, one fused pass per tensor, and the clip factor. training.md §5.2-5.4,
//! mesh.md §16.

/// Update rules; the "w" names (adamw …) are the same rule: λ·p is decoupled for every rule.
pub const Rule = enum(u32) {
    sgd = 0,
    momentum = 1,
    nesterov = 2,
    adam = 3, // adam, adamw
    nadam = 4, // nadam, nadamw
    adamax = 5, // adamax, adamaxw
    radam = 6,
    lamb = 7,
    ademamix = 8,

    /// Moments the rule keeps, in the order first, second, third.
    pub fn moments(rule: Rule) u32 {
        return switch (rule) {
            .sgd => 0,
            .momentum, .nesterov => 1,
            .adam, .nadam, .adamax, .radam, .lamb => 2,
            .ademamix => 3,
        };
    }
};

/// For LAMB on a sharded tensor: run `.norms` on every shard, sum the norms over shards, `.update`.
pub const Phase = enum(u32) { whole = 0, norms = 1, update = 2 };

/// g ← clip(gradient·gradient_scale·factor, ±clip_value); moments and parameter by the rule, in
/// place. A tensor's moments start at 0.
pub const OptimizerStep = extern struct {
    parameter: *anyopaque, // A [count]; in place
    gradient: *const anyopaque, // S [count]
    first: ?*anyopaque, // A [count]; m (momentum, adam …); in place
    second: ?*anyopaque, // A [count]; v, or a of adamax; in place
    third: ?*anyopaque, // A [count]; the slow m₂ of ademamix; in place
    shadow: ?*anyopaque, // bf16 [count]; the new parameter rounded. Not with S = f64
    factor: ?*const anyopaque, // f64 [1]; clip factor, as ClipFactor writes it; null = 1; where it
    // is NaN nothing is changed
    /// CUDA only: what depends on the step, as `optimizerSchedule` writes it, for captured graphs;
    /// null: by `step`, `learning_rate`, `beta3` and `alpha`.
    schedule: ?*const anyopaque = null,
    norms: ?*anyopaque, // f64 [2]; Σp², Σw² of lamb: written in phase norms, read in phase update
    count: u64,
    step: u64, // t = 1, 2, …
    learning_rate: f64, // η = lr(t − 1)
    beta1: f64, // momentum of sgd
    beta2: f64,
    beta3: f64, // β₃(t), from its schedule
    alpha: f64, // α(t), from its schedule
    eps: f64,
    weight_decay: f64, // 0 on tensors that do not decay
    gradient_scale: f64, // 1 where gradients are already scaled
    clip_value: f64, // 0 = none
    rule: u32, // Rule
    phase: u32, // Phase; whole for every rule but lamb
};

/// norm = √Σ squares (added in order); factor = max_norm/max(max_norm, norm), or 1 if max_norm is 0
/// or the norm is not finite, or NaN if `bad` is not 0.
pub const ClipFactor = extern struct {
    squares: *const anyopaque, // f64 [count]; one sum of squares per tensor
    bad: ?*const anyopaque = null, // f64 [1]; elements that are not finite
    norm: *anyopaque, // f64 [1]
    factor: *anyopaque, // f64 [1]
    count: u64,
    max_norm: f64, // 0 = no clipping, only the norm
    pub const storage = .{f64};
};

pub const kernels = .{
    .{ "optimizerStep", OptimizerStep },
    .{ "clipFactor", ClipFactor },
};
