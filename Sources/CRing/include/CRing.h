// What Swift cannot import from liburing and the socket headers: macros with casts, variadic functions, and the inline
// walk over control messages. No logic.
#pragma once
#include <features.h>
#include <liburing.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

// Setup and submission flags (macros with casts).
enum {
  RING_SETUP_CQSIZE = IORING_SETUP_CQSIZE,
  RING_SETUP_CLAMP = IORING_SETUP_CLAMP,
  RING_SETUP_R_DISABLED = IORING_SETUP_R_DISABLED,
  RING_SETUP_SUBMIT_ALL = IORING_SETUP_SUBMIT_ALL,
  RING_SETUP_COOP_TASKRUN = IORING_SETUP_COOP_TASKRUN,
  RING_SETUP_TASKRUN_FLAG = IORING_SETUP_TASKRUN_FLAG,
  RING_SETUP_SINGLE_ISSUER = IORING_SETUP_SINGLE_ISSUER,
  RING_SETUP_DEFER_TASKRUN = IORING_SETUP_DEFER_TASKRUN,
  RING_SQE_FIXED_FILE = IOSQE_FIXED_FILE,
  RING_SQE_BUFFER_SELECT = IOSQE_BUFFER_SELECT,
  RING_CQE_BUFFER = IORING_CQE_F_BUFFER,
  RING_CQE_MORE = IORING_CQE_F_MORE,
  RING_CANCEL_ALL = IORING_ASYNC_CANCEL_ALL,
  RING_CANCEL_ANY = IORING_ASYNC_CANCEL_ANY,
  RING_OP_OF_6_0 = IORING_OP_SEND_ZC,
};

// Socket levels and options that glibc 2.36 or the importer leaves out.
enum {
  LEVEL_IP = IPPROTO_IP,
  LEVEL_IPV6 = IPPROTO_IPV6,
  LEVEL_UDP = IPPROTO_UDP,
  OPTION_IP_MTU_DISCOVER = IP_MTU_DISCOVER,
  OPTION_PMTU_PROBE = IP_PMTUDISC_PROBE,
  OPTION_IP_RECVERR = IP_RECVERR,
  OPTION_UDP_GRO = 104,
};

// Debian 12's liburing declares io_uring_enable_rings and doesn't export it. 0 or negative errno.
int ring_enable(struct io_uring *ring);

// Whether the kernel knows an operation.
int ring_supports(struct io_uring *ring, int operation);

// One completion, copied out so that its place in the ring can be handed back before it is worked on.
struct ring_completion {
  uint64_t user_data;
  int32_t result;
  uint32_t flags;
};

// Copies up to `limit` completions and releases their places. Makes no system call.
static inline unsigned ring_take_completions(struct io_uring *ring, struct ring_completion *out, unsigned limit) {
  struct io_uring_cqe *cqe;
  unsigned head, count = 0;
  io_uring_for_each_cqe(ring, head, cqe) {
    if (count == limit) break;
    out[count].user_data = cqe->user_data;
    out[count].result = cqe->res;
    out[count].flags = cqe->flags;
    count++;
  }
  io_uring_cq_advance(ring, count);
  return count;
}

// Whether the kernel holds work or overflown completions that only entering it will deliver.
static inline int ring_kernel_has_work(struct io_uring *ring) {
  return (IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}
static inline int ring_cq_overflown(struct io_uring *ring) {
  return (IO_URING_READ_ONCE(*ring->sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0;
}

// Tells the processor that this is a loop that waits.
static inline void ring_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// What a received message's control data said. `has` bits tell which fields are filled.
enum { CONTROL_TIMESTAMP = 1, CONTROL_SEGMENT = 2, CONTROL_DROPS = 4 };
struct control_data {
  uint64_t timestamp_ns;  // CLOCK_REALTIME
  uint32_t segment;       // UDP_GRO: bytes of each datagram but the last
  uint32_t drops;         // SO_RXQ_OVFL: datagrams the socket has dropped so far
  uint32_t has;
};
void control_parse(const void *control, size_t length, struct control_data *out);

// One error from a socket's error queue; 0 when the control data holds none.
struct queued_error {
  uint32_t error;   // errno
  uint8_t origin;   // SO_EE_ORIGIN_LOCAL 1, ICMP 2, ICMP6 3
  uint8_t type, code;
  uint32_t info;    // MTU of a 'too big'
};
int control_parse_error(const void *control, size_t length, struct queued_error *out);

// Writes a UDP_SEGMENT control message; returns its length. `control` holds at least SEGMENT_CONTROL_BYTES.
enum { SEGMENT_CONTROL_BYTES = 32 };
size_t control_put_segment(void *control, uint16_t segment);

// Thread and socket helpers.
int thread_pin(int cpu);                 // 0 or errno
int thread_make_realtime(int priority);  // round robin; what the thread starts isn't. 0 or errno
void heap_keep_pages(void);              // see ProcessHeap.swift
void thread_set_name(const char *name);  // at most 15 bytes are kept
void thread_set_timer_slack(unsigned long ns);
int event_descriptor(void);              // close-on-exec eventfd, or -1. Blocking: io_uring waits only on such
long socket_drops(int fd);               // SO_MEMINFO: datagrams dropped so far, -1 when the kernel can't say
