// NCCL for the emulator: a communicator whose other ranks are not there and put in what changes
// nothing: nothing to a sum, a maximum or a minimum, zeros elsewhere. What matters is the way of the
// calls: they are not blocking, run in streams, can be captured, and fail late.
//
//   XL_EMULATOR_NCCL_BUSY=n   "in progress" answers after each call; default 2
//   XL_EMULATOR_NCCL_ERROR=n  what a communicator's state is after its first call on data

#include <stdlib.h>
#include <string.h>

#include "driver.hpp"

namespace xl {
namespace {

enum NcclResult : int { done = 0, failed = 1, invalid_argument = 4, invalid_usage = 5, pending = 7 };

constexpr unsigned live = 0x6e63636c;
constexpr size_t dtype_bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

struct Comm {
  unsigned magic;
  int size, rank;
  unsigned busy;  // states that still answer "in progress"
  bool used;
  Pointer to_itself;  // sent in this group
  /// Where a split writes its communicator once it is done.
  Comm** child_place;
  Comm* child;
};

struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

struct Id {
  char bytes[128];
};

int groups = 0;
Comm* grouped = nullptr;  // sends or receives in the open group

bool is_live(const Comm* comm) { return comm != nullptr && comm->magic == live; }

NcclResult start(Comm* comm) {
  comm->busy = static_cast<unsigned>(setting("XL_EMULATOR_NCCL_BUSY", 2));
  return comm->busy > 0 ? pending : done;
}

NcclResult create(Comm** to, int size, int rank, const Config* config) {
  if (config == nullptr || config->magic != 0xcafebeef || config->blocking != 0)
    return invalid_usage;  // this house never blocks
  if (size < 1 || rank < 0 || rank >= size) return invalid_argument;
  Comm* made = static_cast<Comm*>(calloc(1, sizeof(Comm)));
  if (made == nullptr) return failed;
  made->magic = live;
  made->size = size;
  made->rank = rank;
  *to = made;
  return start(made);
}

Pointer address(const void* pointer) { return reinterpret_cast<Pointer>(pointer); }

NcclResult enqueue(const Work& work, void* stream) {
  Call call(Needs::context);
  if (call.result != success) return failed;
  if (work.bytes == 0 || (work.kind == Work::copy_on_device && work.to == work.from)) return done;
  return submit(stream, work) == success ? done : failed;
}

NcclResult copy(Pointer to, Pointer from, size_t bytes, void* stream) {
  Work work;
  work.kind = Work::copy_on_device;
  work.to = to;
  work.from = from;
  work.bytes = bytes;
  return enqueue(work, stream);
}

NcclResult zero(Pointer to, size_t bytes, void* stream) {
  Work work;
  work.kind = Work::fill;
  work.to = to;
  work.bytes = bytes;
  work.value = 0;
  return enqueue(work, stream);
}

/// Checks a call on data; its bytes, or a failure.
NcclResult begin(Comm* comm, size_t count, int dtype, size_t* bytes) {
  if (!is_live(comm) || dtype < 0 || dtype > 9) return invalid_argument;
  if (comm->busy > 0) return invalid_usage;  // the call before has not been waited for
  *bytes = count * dtype_bytes[dtype];
  comm->used = true;
  return done;
}

NcclResult finish(Comm* comm, NcclResult result) { return result == done ? start(comm) : result; }

}  // namespace

XL_EXPORT int ncclGetVersion(int* to) {
  *to = 22809;
  return done;
}

XL_EXPORT const char* ncclGetErrorString(int result) {
  return result == 6 ? "remote process exited or there was a network error" : "emulated failure";
}

XL_EXPORT const char* ncclGetLastError(void*) { return ""; }

XL_EXPORT int ncclGetUniqueId(Id* to) {
  memset(to->bytes, 'i', sizeof(to->bytes));
  return done;
}

XL_EXPORT int ncclCommInitRankConfig(Comm** to, int size, Id, int rank, Config* config) {
  return create(to, size, rank, config);
}

XL_EXPORT int ncclCommInitRankScalable(Comm** to, int size, int rank, int ids, Id* id,
                                       Config* config) {
  if (ids != 1 || id->bytes[0] != 'i') return invalid_argument;
  return create(to, size, rank, config);
}

/// The new communicator appears when the parent has been asked often enough.
XL_EXPORT int ncclCommSplit(Comm* comm, int color, int, Comm** to, Config* config) {
  if (!is_live(comm)) return invalid_argument;
  if (comm->busy > 0) return invalid_usage;
  *to = nullptr;
  if (color >= 0) {
    const NcclResult made = create(&comm->child, comm->size, comm->rank, config);
    if (made != done && made != pending) return made;
    comm->child_place = to;
  }
  comm->busy = static_cast<unsigned>(setting("XL_EMULATOR_NCCL_BUSY", 2)) + 1;
  return pending;
}

XL_EXPORT int ncclCommFinalize(Comm* comm) { return is_live(comm) ? start(comm) : invalid_argument; }

XL_EXPORT int ncclCommDestroy(Comm* comm) {
  if (!is_live(comm)) return invalid_argument;
  if (comm->busy > 0) return invalid_usage;
  comm->magic = 0;  // never freed: a dead handle is an error to report
  return done;
}

XL_EXPORT int ncclCommAbort(Comm* comm) {
  if (!is_live(comm)) return invalid_argument;
  comm->magic = 0;
  return done;
}

XL_EXPORT int ncclCommGetAsyncError(Comm* comm, int* to) {
  if (!is_live(comm)) return invalid_argument;
  if (comm->busy > 0) {
    comm->busy--;
    *to = pending;
    return done;
  }
  if (comm->child_place != nullptr) {
    *comm->child_place = comm->child;
    comm->child_place = nullptr;
  }
  *to = comm->used ? static_cast<int>(setting("XL_EMULATOR_NCCL_ERROR", 0)) : 0;
  return done;
}

XL_EXPORT int ncclCommCount(Comm* comm, int* to) {
  if (!is_live(comm)) return invalid_argument;
  *to = comm->size;
  return done;
}

XL_EXPORT int ncclCommUserRank(Comm* comm, int* to) {
  if (!is_live(comm)) return invalid_argument;
  *to = comm->rank;
  return done;
}

XL_EXPORT int ncclAllReduce(const void* from, void* to, size_t count, int dtype, int, Comm* comm,
                            void* stream) {
  size_t bytes = 0;
  if (NcclResult failure = begin(comm, count, dtype, &bytes)) return failure;
  return finish(comm, copy(address(to), address(from), bytes, stream));
}

XL_EXPORT int ncclReduceScatter(const void* from, void* to, size_t count, int dtype, int,
                                Comm* comm, void* stream) {
  size_t bytes = 0;
  if (NcclResult failure = begin(comm, count, dtype, &bytes)) return failure;
  const Pointer part = address(from) + static_cast<size_t>(comm->rank) * bytes;
  return finish(comm, copy(address(to), part, bytes, stream));
}

XL_EXPORT int ncclAllGather(const void* from, void* to, size_t count, int dtype, Comm* comm,
                            void* stream) {
  size_t bytes = 0;
  if (NcclResult failure = begin(comm, count, dtype, &bytes)) return failure;
  NcclResult result = done;
  for (int rank = 0; rank < comm->size && result == done; rank++) {
    const Pointer part = address(to) + static_cast<size_t>(rank) * bytes;
    result = rank == comm->rank ? copy(part, address(from), bytes, stream)
                                : zero(part, bytes, stream);
  }
  return finish(comm, result);
}

XL_EXPORT int ncclBroadcast(const void* from, void* to, size_t count, int dtype, int root,
                            Comm* comm, void* stream) {
  size_t bytes = 0;
  if (NcclResult failure = begin(comm, count, dtype, &bytes)) return failure;
  if (root < 0 || root >= comm->size) return invalid_argument;
  return finish(comm, root == comm->rank ? copy(address(to), address(from), bytes, stream)
                                         : zero(address(to), bytes, stream));
}

/// Messages only inside of groups, where a pair cannot wait for itself.
XL_EXPORT int ncclSend(const void* from, size_t count, int dtype, int peer, Comm* comm,
                       void* stream) {
  size_t bytes = 0;
  if (groups == 0) return invalid_usage;
  if (NcclResult failure = begin(comm, count, dtype, &bytes)) return failure;
  if (peer < 0 || peer >= comm->size || stream == nullptr) return invalid_argument;
  grouped = comm;
  if (peer == comm->rank) comm->to_itself = address(from);
  Call call(Needs::context);
  return check_range(address(from), bytes, "ncclSend") == success ? done : failed;
}

XL_EXPORT int ncclRecv(void* to, size_t count, int dtype, int peer, Comm* comm, void* stream) {
  size_t bytes = 0;
  if (groups == 0) return invalid_usage;
  if (NcclResult failure = begin(comm, count, dtype, &bytes)) return failure;
  if (peer < 0 || peer >= comm->size) return invalid_argument;
  grouped = comm;
  return peer == comm->rank ? copy(address(to), comm->to_itself, bytes, stream)
                            : zero(address(to), bytes, stream);
}

XL_EXPORT int ncclGroupStart() {
  groups++;
  return done;
}

XL_EXPORT int ncclGroupEnd() {
  if (groups == 0) return invalid_usage;
  groups--;
  Comm* comm = grouped;
  if (groups > 0 || comm == nullptr) return done;
  grouped = nullptr;
  return start(comm);
}

}  // namespace xl
