// Optimisers and learning-rate schedules.

export {
  adamw,
  NonFiniteError,
  Optimizer,
  optimizer,
  type OptimizerInput,
  optimizerNames,
  optimizerSchema,
} from "./optimizer.ts";
export { schedule, type ScheduleInput, scheduleSchema } from "./schedule.ts";
