// Published sets of environment variables for networks of several hosts. They are data to start
// from: nothing uses one unless it is named.

export interface NetworkPreset {
  readonly description: string;
  readonly variables: Readonly<Record<string, string>>;
}

const numbered = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17];

export const networkPresets = {
  infiniband16: {
    description: "nodes with 16 InfiniBand adapters (mlx5), control traffic on eth0",
    variables: {
      NCCL_CROSS_NIC: "0",
      NCCL_SOCKET_NTHREADS: "16",
      NCCL_DEBUG: "WARN",
      NCCL_CUMEM_ENABLE: "0",
      NCCL_IB_SPLIT_DATA_ON_QPS: "0",
      NCCL_IB_QPS_PER_CONNECTION: "16",
      NCCL_IB_GID_INDEX: "3",
      NCCL_IB_TC: "41",
      NCCL_IB_SL: "0",
      NCCL_IB_TIMEOUT: "22",
      NCCL_NET_PLUGIN: "none",
      NCCL_SOCKET_IFNAME: "eth0",
      NCCL_IGNORE_CPU_AFFINITY: "1",
      // The first character says that names are whole, not beginnings: mlx5_1 is not mlx5_10.
      NCCL_IB_HCA: `=${numbered.map((number) => `mlx5_${number}`).join(",")}`,
      HCOLL_ENABLE_MCAST_ALL: "0",
      coll_hcoll_enable: "0",
      UCX_TLS: "tcp",
      UCX_NET_DEVICES: "eth0",
      RX_QUEUE_LEN: "8192",
      IB_RX_QUEUE_LEN: "8192",
      OMPI_MCA_coll: "^hcoll",
      TOKENIZERS_PARALLELISM: "0",
    },
  },
} as const satisfies Record<string, NetworkPreset>;

export type NetworkName = keyof typeof networkPresets;
export const networkNames = Object.keys(networkPresets) as NetworkName[];

/** NVLink multicast stays off: on some hosts it can put the whole host out of service. */
export const safeVariables: Readonly<Record<string, string>> = {
  NCCL_NVLS_ENABLE: "0",
  TORCH_SYMM_MEM_DISABLE_MULTICAST: "1",
  NVSHMEM_DISABLE_NVLS: "1",
};
