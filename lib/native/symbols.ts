// Generated from the Zig export table by `bun run build:native --bindings`. Do not edit.

export const abiHash = 192381270;

export const Status = {
  ok: 0,
  invalid_argument: 1,
  invalid_handle: 2,
  unsupported: 3,
  out_of_memory: 4,
  library_missing: 5,
  cuda: 6,
  cublas: 7,
  nccl: 8,
  io: 9,
  timeout: 10,
  aborted: 11,
  internal: 12,
} as const;

export const DTypeCode = {
  f32: 0,
  bf16: 1,
  f16: 2,
  f64: 3,
  i32: 4,
  u8: 5,
} as const;

export const DeviceCode = {
  cpu: 0,
  cuda: 1,
} as const;

export const Unary = {
  neg: 0,
  abs: 1,
  exp: 2,
  log: 3,
  sqrt: 4,
  rsqrt: 5,
  square: 6,
  reciprocal: 7,
  sigmoid: 8,
  tanh: 9,
  silu: 10,
  gelu_erf: 11,
  gelu_tanh: 12,
  relu: 13,
  relu2: 14,
  selu: 15,
  softplus: 16,
  log_sigmoid: 17,
  sin: 18,
  cos: 19,
  soft_cap: 20,
  scale: 21,
  add_scalar: 22,
  pow_scalar: 23,
  clamp_min: 24,
  clamp_max: 25,
} as const;

export const Saved = {
  input: 0,
  output: 1,
  nothing: 2,
} as const;

export const Binary = {
  add: 0,
  sub: 1,
  mul: 2,
  div: 3,
  maximum: 4,
  minimum: 5,
  eq: 6,
  lt: 7,
  le: 8,
  gt: 9,
  ge: 10,
} as const;

export const Reduction = {
  sum: 0,
  mean: 1,
  max: 2,
  min: 3,
  sum_squares: 4,
  logsumexp: 5,
} as const;

export const Rule = {
  sgd: 0,
  momentum: 1,
  nesterov: 2,
  adam: 3,
  nadam: 4,
  adamax: 5,
  radam: 6,
  lamb: 7,
  ademamix: 8,
} as const;

export const Phase = {
  whole: 0,
  norms: 1,
  update: 2,
} as const;

export const symbols = {
  /** xl_last_error() Text of this thread's last failure. */
  xl_last_error: {
    args: [],
    returns: "cstring",
  },
  /** xl_scratch() Address of the 8 KiB scratch block. */
  xl_scratch: {
    args: [],
    returns: "ptr",
  },
  /** xl_abi_hash() Hash of names and types of this table. */
  xl_abi_hash: {
    args: [],
    returns: "i32",
  },
  /** xl_start(threads, level) Starts; 0 threads = one per core. */
  xl_start: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_deallocator() Drops a handle's cell, for the collector. */
  xl_deallocator: {
    args: [],
    returns: "ptr",
  },
  /** xl_memory() Numbers: tensors, bytes, peak, cached, calls, threads, level. */
  xl_memory: {
    args: [],
    returns: "i32",
  },
  /** xl_reset_peak() Sets the peak to what is live now. */
  xl_reset_peak: {
    args: [],
    returns: "i32",
  },
  /** xl_trim() Returns cached memory to the system. */
  xl_trim: {
    args: [],
    returns: "i32",
  },
  /** xl_limit_memory(bytes) Bytes that tensors may take. */
  xl_limit_memory: {
    args: ["f64"],
    returns: "i32",
  },
  /** xl_dispose(tensor) Releases a handle. */
  xl_dispose: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_dispose_many(count) Releases handles in scratch ints. */
  xl_dispose_many: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_cell(tensor) Numbers: address of a cell for the deallocator. */
  xl_cell: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_panic() Panics, for the test of the panic handler. */
  xl_panic: {
    args: [],
    returns: "i32",
  },
  /** xl_empty(rank, dtype) Undefined contents; shape in scratch. */
  xl_empty: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_full(rank, dtype, value) One value; shape in scratch. */
  xl_full: {
    args: ["i32", "i32", "f64"],
    returns: "i32",
  },
  /** xl_arange(count, dtype, start, step) start, start + step, … */
  xl_arange: {
    args: ["i32", "i32", "f64", "f64"],
    returns: "i32",
  },
  /** xl_from_bytes(rank, dtype, data, bytes) Copies data in. */
  xl_from_bytes: {
    args: ["i32", "i32", "ptr", "ptr"],
    returns: "i32",
  },
  /** xl_to_bytes(x, target, offset, bytes) Copies data out. */
  xl_to_bytes: {
    args: ["i32", "ptr", "ptr", "ptr"],
    returns: "i32",
  },
  /** xl_write_bytes(x, data, offset, bytes) Overwrites data. */
  xl_write_bytes: {
    args: ["i32", "ptr", "ptr", "ptr"],
    returns: "i32",
  },
  /** xl_reshape(x, rank) Same elements, shape in scratch. */
  xl_reshape: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_permute(x, rank) Dims reordered, order in scratch. */
  xl_permute: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_slice(x, dim, start, end, step) A range of one dim. */
  xl_slice: {
    args: ["i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_expand(x, rank) Broadcast view, shape in scratch. */
  xl_expand: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_concat(count, dim) Joins tensors whose handles are in scratch. */
  xl_concat: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_assign(target, source) Writes source into target in place. */
  xl_assign: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_copy(x, dtype) Row-major copy; dtype -1 keeps it. */
  xl_copy: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_alias(x) Another handle on the same memory. */
  xl_alias: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_unary(x, op, parameter) Element-wise function. */
  xl_unary: {
    args: ["i32", "i32", "f64"],
    returns: "i32",
  },
  /** xl_unary_backward(dy, saved, op, parameter) Its gradient. */
  xl_unary_backward: {
    args: ["i32", "i32", "i32", "f64"],
    returns: "i32",
  },
  /** xl_binary(a, b, op) Element-wise with broadcasting. */
  xl_binary: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_where(mask, a, b) mask ? a : b. */
  xl_where: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_reduce(x, op, dims, keep) Reduction over dims in scratch. */
  xl_reduce: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_sum_to(x, rank) Sums a broadcast gradient back. */
  xl_sum_to: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_gated_activation(gate, up, op) act(gate) * up. */
  xl_gated_activation: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_gated_activation_backward(dy, gate, up, op) Its gradients. */
  xl_gated_activation_backward: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_global_sum_squares(count) Sums of squares of tensors. */
  xl_global_sum_squares: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_matmul(a, b, transpose_a, transpose_b, bias, dtype) Batched product. */
  xl_matmul: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_linear_input_gradient(count, x, parts) Sum of dy W over pairs in scratch. */
  xl_linear_input_gradient: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_linear_in_parts(x, weight, bias, parts, count) x W^T, added as ranks share it. */
  xl_linear_in_parts: {
    args: ["i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_linear_weight_gradient(dy, x, dtype) dy^T x. */
  xl_linear_weight_gradient: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_embedding(table, ids, dtype) Rows of a table. */
  xl_embedding: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_embedding_backward(dy, ids, vocabulary) Its gradient. */
  xl_embedding_backward: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_index_select(x, indices, dim) Positions of a dim. */
  xl_index_select: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_index_add(dy, indices, dim, count) Its gradient. */
  xl_index_add: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_take_along(x, indices) Picks along the last dim. */
  xl_take_along: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_take_along_backward(dy, indices, width) Its gradient. */
  xl_take_along_backward: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_argmax(x) Largest element of the last dim. */
  xl_argmax: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_top_k(x, k) k largest elements of the last dim. */
  xl_top_k: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_random(kind, rank, dtype, key_low, key_high) Random tensor. */
  xl_random: {
    args: ["i32", "i32", "i32", "u32", "u32"],
    returns: "i32",
  },
  /** xl_random_into(kind, y, key_low, key_high, first) The same in place. */
  xl_random_into: {
    args: ["i32", "i32", "u32", "u32", "ptr"],
    returns: "i32",
  },
  /** xl_dropout(x, keep, key_low, key_high, first_sample, first_position, first_feature) Dropout. */
  xl_dropout: {
    args: ["i32", "f64", "u32", "u32", "ptr", "ptr", "ptr"],
    returns: "i32",
  },
  /** xl_sample(logits, settings, draws) One token per row. */
  xl_sample: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_norm(x, residual, scale, bias, groups, center, eps, scale_offset) RMSNorm, LayerNorm. */
  xl_norm: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32", "f64", "f64"],
    returns: "i32",
  },
  /** xl_norm_backward(dy, x, scale, mean, rstd, dsum, groups, center, has_bias, scale_offset) Its gradients. */
  xl_norm_backward: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "f64"],
    returns: "i32",
  },
  /** xl_head_norm_gate(h, o, scale, bias, groups, center, eps, scale_offset) sigmoid(o) * norm(h). */
  xl_head_norm_gate: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32", "f64", "f64"],
    returns: "i32",
  },
  /** xl_head_norm_gate_backward(groups, center, eps, scale_offset) Its gradients. */
  xl_head_norm_gate_backward: {
    args: ["i32", "i32", "f64", "f64"],
    returns: "i32",
  },
  /** xl_softmax(x, logarithm) Over the last dim. */
  xl_softmax: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_softmax_backward(dy, y, logarithm) Its gradient. */
  xl_softmax_backward: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_cross_entropy(logits, targets, mask) Loss sum and count. */
  xl_cross_entropy: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_cross_entropy_backward(logits, targets, mask, lse, dloss, drows) Its gradient. */
  xl_cross_entropy_backward: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_linear_cross_entropy(hidden, weight, targets, mask, gradients) Head and loss in chunks. */
  xl_linear_cross_entropy: {
    args: ["i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_split_softmax_sums(logits, columns, top, parts, wants_total) Of the ids that a rank has: sums of powers, logits of columns, sums of logits. */
  xl_split_softmax_sums: {
    args: ["i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_split_softmax_slopes(logits, columns, top, scale, rest, own) Their gradients, in place. */
  xl_split_softmax_slopes: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_optimizer_schedule(target) Coefficients of a captured update, from scratch floats. */
  xl_optimizer_schedule: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_optimizer_update(rule, count, factor, schedule) One update of tensors in scratch, in place. */
  xl_optimizer_update: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_clip_factor(sums, max_norm) Global norm and clip factor. */
  xl_clip_factor: {
    args: ["i32", "f64"],
    returns: "i32",
  },
  /** xl_mlstm() mLSTM cell; everything in scratch. */
  xl_mlstm: {
    args: [],
    returns: "i32",
  },
  /** xl_mlstm_backward() Its gradients. */
  xl_mlstm_backward: {
    args: [],
    returns: "i32",
  },
  /** xl_mlstm_step() One token, the state in place. */
  xl_mlstm_step: {
    args: [],
    returns: "i32",
  },
  /** xl_slstm(wx, r, b, initial, borders, lengths, function, save) sLSTM cell. */
  xl_slstm: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_slstm_backward(function) Its gradients; handles in scratch. */
  xl_slstm_backward: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_slstm_step(wx, r, b, slots, state, function) One token, the state in place. */
  xl_slstm_step: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_conv(x, weight, bias, state, borders, lengths, silu) Causal depthwise convolution. */
  xl_conv: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_conv_backward(silu) Its gradients; handles in scratch. */
  xl_conv_backward: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_conv_step(x, weight, bias, slots, state, silu) One token, the state in place. */
  xl_conv_step: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_headwise(x, weight, bias) Block-diagonal linear map. */
  xl_headwise: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_headwise_backward(dy, x, weight, has_bias) Its gradients. */
  xl_headwise_backward: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_file_open(path_length) Path in scratch text. Numbers: file, tensors, metadata pairs. */
  xl_file_open: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_file_entry(file, index) Name in scratch text. Numbers: its length, dtype, rank, dims, begin, end. */
  xl_file_entry: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_file_metadata(file, index, offset) Piece of key NUL value in scratch text. Numbers: whole, key and piece length. */
  xl_file_metadata: {
    args: ["i32", "i32", "f64"],
    returns: "i32",
  },
  /** xl_file_load(file, index, dtype) Reads a tensor; dtype -1 keeps the type of the file. */
  xl_file_load: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_file_close(file) Closes a file. */
  xl_file_close: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_open_device(path_length, ordinal, synchronous) Opens a GPU through the driver whose path is in scratch text. */
  xl_open_device: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_use_cublaslt(path_length) Opens the cuBLASLt library whose path is in scratch text. */
  xl_use_cublaslt: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_import_algorithms(text_length, timing) Takes choices of cuBLASLt's algorithms from scratch text; timing: whether to make others. */
  xl_import_algorithms: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_export_algorithms(first) New choices into scratch text. Numbers: its bytes, how many. */
  xl_export_algorithms: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_use_device(device) Where new tensors go. */
  xl_use_device: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_device_facts() Name in scratch text; numbers: ops/device.zig. */
  xl_device_facts: {
    args: [],
    returns: "i32",
  },
  /** xl_to_device(x, device) The tensor on another device. */
  xl_to_device: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_synchronize() Waits for the GPU. */
  xl_synchronize: {
    args: [],
    returns: "i32",
  },
  /** xl_capture_begin() Records launches instead of running them. */
  xl_capture_begin: {
    args: [],
    returns: "i32",
  },
  /** xl_capture_end(keep) Numbers: the graph, its launches. */
  xl_capture_end: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_replay(graph) Runs a captured graph. */
  xl_replay: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_destroy_graph(graph) Releases a captured graph. */
  xl_destroy_graph: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_mark(which) Puts a time mark (0 or 1) into the stream. */
  xl_mark: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_elapsed() Numbers: milliseconds between the marks. */
  xl_elapsed: {
    args: [],
    returns: "i32",
  },
  /** xl_comm_segment(size) Makes the shared memory of a group. Numbers: this process, the descriptor. */
  xl_comm_segment: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_comm_open_shared(pid, fd, size, rank, name_length) Opens a group on shared memory; global ranks in ints, name in text. Number: the group. */
  xl_comm_open_shared: {
    args: ["i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_open_fake(size, rank, name_length) Opens a group whose other ranks do not exist; as xl_comm_open_shared. */
  xl_comm_open_fake: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_check_fakes(count) Compares what groups in ints, one per rank that does not exist, have called. */
  xl_comm_check_fakes: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_comm_nccl_library(path_length) Opens the NCCL library whose path is in scratch text. Number: its version. */
  xl_comm_nccl_library: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_comm_nccl_id() A new id of 128 bytes into scratch text. */
  xl_comm_nccl_id: {
    args: [],
    returns: "i32",
  },
  /** xl_comm_open_nccl(size, rank, name_length) Opens a group on GPUs: id, then name in text, global ranks in ints. Number: the group. */
  xl_comm_open_nccl: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_split(group, color, key, name_length) Splits a group. Numbers: the new one or 0, the place in it, its size; ranks in ints. */
  xl_comm_split: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_watch(group) Processes to watch, by group rank, in ints. */
  xl_comm_watch: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_comm_poll(group) Numbers: 1 when usable; missing, in ints. */
  xl_comm_poll: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_comm_set_limit(group, seconds) How long a call may wait for the others. */
  xl_comm_set_limit: {
    args: ["i32", "f64"],
    returns: "i32",
  },
  /** xl_comm_abort(group, reason_length) Gives a group up; reason in scratch text. */
  xl_comm_abort: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_close(group) Lets go of a group. */
  xl_comm_close: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_comm_close_all() Lets go of all groups. */
  xl_comm_close_all: {
    args: [],
    returns: "i32",
  },
  /** xl_comm_set_step(step) Step of later flight record entries. */
  xl_comm_set_step: {
    args: ["f64"],
    returns: "i32",
  },
  /** xl_comm_record(first) Flight record as JSON lines in text. Numbers: bytes, next entry, entries so far. */
  xl_comm_record: {
    args: ["f64"],
    returns: "i32",
  },
  /** xl_comm_all_reduce(group, x, reduction, site_length) Sum (0), maximum (1) or minimum (2); site in text. Number: ticket for join, or 0. */
  xl_comm_all_reduce: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_all_gather(group, x, site_length) Everybody's x along dim 0; site in text. Number: ticket for join, or 0. */
  xl_comm_all_gather: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_reduce_scatter(group, x, site_length) This rank's part of the sum along dim 0; site in text. Number: ticket for join, or 0. */
  xl_comm_reduce_scatter: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_all_to_all(group, x, site_length) This rank's part of everybody's x along dim 0; site in text. */
  xl_comm_all_to_all: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_broadcast(group, x, root, site_length) The root's values into everybody's x, in place; site in text. */
  xl_comm_broadcast: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_join(ticket) Later work of the device comes after a ticket. */
  xl_comm_join: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_comm_barrier(group, site_length) Meets all ranks. */
  xl_comm_barrier: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_comm_exchange(group, x, to, site_out_length, from, rank, dtype, site_in_length) Sends x (0: nothing), receives (from -1: nothing) a shape in ints; sites in text. */
  xl_comm_exchange: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_mesh_write(first, length) Numbers from floats at a place of the list of the next call; the list ends there. */
  xl_mesh_write: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_mesh_read(first) Numbers of the last call's list from a place on. */
  xl_mesh_read: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_mesh_sizes(ranks) Checks a mesh: sizes by axis and order in ints. Numbers: the sizes, -1 replaced. */
  xl_mesh_sizes: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_mesh_coordinates(ranks, rank) Numbers: coordinates by axis. */
  xl_mesh_coordinates: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_mesh_rank(ranks) Number: the rank at coordinates in ints. */
  xl_mesh_rank: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_mesh_group(ranks, rank, axes) List: the ranks that differ from this one on some axes only. */
  xl_mesh_group: {
    args: ["i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_mesh_place(part, parts) Part of a dim whose segments are the list. List: start and length of every run. */
  xl_mesh_place: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_mesh_element_runs(rank, from, to) Elements of a box, which is the list. List: their runs in the global tensor. */
  xl_mesh_element_runs: {
    args: ["i32", "f64", "f64"],
    returns: "i32",
  },
  /** xl_mesh_flat_unit(shards) Lays out parameters whose sizes are the list. List: chunk, total, every start. */
  xl_mesh_flat_unit: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_mesh_owned(chunk, start, size, part) Numbers: elements of a parameter that a rank owns, first and end. */
  xl_mesh_owned: {
    args: ["f64", "f64", "f64", "i32"],
    returns: "i32",
  },
  /** xl_mesh_schedule(stages, microbatches, chunks, stage) List: kind, microbatch, chunk of every op of a pipeline stage. */
  xl_mesh_schedule: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_plan_write_names(first, length) Bytes from text at a place of the names of the next call; they end there. */
  xl_plan_write_names: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_plan_read_text(first) The last call's text from a byte on. Number: bytes. */
  xl_plan_read_text: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_plan_rule(kind, rank, residual, name_length) Numbers: dim that tp splits (-1: R, -2: I), 1 where it has segments. Name in text. */
  xl_plan_rule: {
    args: ["i32", "i32", "i32", "i32"],
    returns: "i32",
  },
  /** xl_plan_issues(ranks) Text: what keeps a model (list, names) off a mesh (ints). Number: bytes. */
  xl_plan_issues: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_plan_check(ranks) Fails unless the operations of all ranks end and all gradients become complete. */
  xl_plan_check: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_plan_parameters(ranks) List: stage, parameter, state on tp, vector, elements on a rank of tp and of fsdp. */
  xl_plan_parameters: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_plan_bytes(ranks) List: bytes by cause of every stage. */
  xl_plan_bytes: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_plan_calls(ranks) List: stage, cause, kind, axes, calls, bytes on the wire of a rank. */
  xl_plan_calls: {
    args: ["i32"],
    returns: "i32",
  },
  /** xl_plan_operations(ranks, rank) Text: the operations of a rank, one a line. Number: bytes. */
  xl_plan_operations: {
    args: ["i32", "i32"],
    returns: "i32",
  },
  /** xl_ceiling(loops) Peak multiply-add rate; numbers: FLOP done. */
  xl_ceiling: {
    args: ["f64"],
    returns: "i32",
  },
  /** xl_use_blas(path_length) CBLAS library by path in scratch. */
  xl_use_blas: {
    args: ["i32"],
    returns: "i32",
  },
} as const;
