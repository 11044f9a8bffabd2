#define _GNU_SOURCE
#include "CRing.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <malloc.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

int ring_enable(struct io_uring *ring) {
  long result = syscall(__NR_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
  return result < 0 ? -errno : 0;
}

int ring_supports(struct io_uring *ring, int operation) {
  struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
  if (!probe) return 0;
  int known = io_uring_opcode_supported(probe, operation);
  io_uring_free_probe(probe);
  return known;
}

// CMSG_NXTHDR of glibc 2.36 reads the next header's length before it has checked that it is inside: walk by hand.
#define FOR_EACH_CONTROL(control, length, header, payload, bytes)                                              \
  for (size_t at_ = 0;                                                                                         \
       at_ + sizeof(struct cmsghdr) <= (length) &&                                                             \
       (memcpy(&(header), (const char *)(control) + at_, sizeof(header)),                                      \
        (header).cmsg_len >= sizeof(struct cmsghdr) && (header).cmsg_len <= (length)-at_) &&                   \
       ((payload) = (const char *)(control) + at_ + CMSG_ALIGN(sizeof(struct cmsghdr)),                        \
        (bytes) = (header).cmsg_len < CMSG_LEN(0) ? 0 : (header).cmsg_len - CMSG_LEN(0), 1);                   \
       at_ += CMSG_ALIGN((header).cmsg_len))

void control_parse(const void *control, size_t length, struct control_data *out) {
  memset(out, 0, sizeof *out);
  struct cmsghdr header;
  const char *payload;
  size_t bytes;
  FOR_EACH_CONTROL(control, length, header, payload, bytes) {
    if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_TIMESTAMPNS && bytes >= sizeof(struct timespec)) {
      struct timespec t;
      memcpy(&t, payload, sizeof t);
      out->timestamp_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
      out->has |= CONTROL_TIMESTAMP;
    } else if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SO_RXQ_OVFL && bytes >= 4) {
      memcpy(&out->drops, payload, 4);
      out->has |= CONTROL_DROPS;
    } else if (header.cmsg_level == SOL_UDP && header.cmsg_type == UDP_GRO && bytes >= 4) {
      int segment;
      memcpy(&segment, payload, 4);
      if (segment > 0) {
        out->segment = (uint32_t)segment;
        out->has |= CONTROL_SEGMENT;
      }
    }
  }
}

int control_parse_error(const void *control, size_t length, struct queued_error *out) {
  struct cmsghdr header;
  const char *payload;
  size_t bytes;
  FOR_EACH_CONTROL(control, length, header, payload, bytes) {
    int ip = header.cmsg_level == IPPROTO_IP && header.cmsg_type == IP_RECVERR;
    int ip6 = header.cmsg_level == IPPROTO_IPV6 && header.cmsg_type == IPV6_RECVERR;
    if ((ip || ip6) && bytes >= sizeof(struct sock_extended_err)) {
      struct sock_extended_err e;
      memcpy(&e, payload, sizeof e);
      out->error = e.ee_errno;
      out->origin = e.ee_origin;
      out->type = e.ee_type;
      out->code = e.ee_code;
      out->info = e.ee_info;
      return 1;
    }
  }
  return 0;
}

size_t control_put_segment(void *control, uint16_t segment) {
  struct cmsghdr header = {.cmsg_len = CMSG_LEN(sizeof segment), .cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT};
  _Static_assert(CMSG_SPACE(sizeof(uint16_t)) <= SEGMENT_CONTROL_BYTES, "room for one control message");
  memset(control, 0, CMSG_SPACE(sizeof segment));
  memcpy(control, &header, sizeof header);
  memcpy((char *)control + CMSG_ALIGN(sizeof header), &segment, sizeof segment);
  return CMSG_SPACE(sizeof segment);
}

int thread_pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < 0 || cpu >= CPU_SETSIZE) return EINVAL;
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : errno;
}

int thread_make_realtime(int priority) {
  struct sched_param param = {.sched_priority = priority};
  return sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) == 0 ? 0 : errno;
}

void heap_keep_pages(void) {
#ifdef M_ARENA_MAX
  mallopt(M_ARENA_MAX, 1);
#endif
  // The most that glibc takes.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  mallopt(M_TOP_PAD, 8 << 20);
  // Each thread keeps small pieces for itself all the same; what is gone are the rounds through all of them that the next
  // large piece would begin with.
  mallopt(M_MXFAST, 0);
}

void thread_set_name(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
void thread_set_timer_slack(unsigned long ns) { prctl(PR_SET_TIMERSLACK, ns, 0, 0, 0); }

int event_descriptor(void) { return eventfd(0, EFD_CLOEXEC); }

long socket_drops(int fd) {
  uint32_t info[SK_MEMINFO_VARS];
  socklen_t size = sizeof info;
  if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) != 0) return -1;
  return size > SK_MEMINFO_DROPS * sizeof info[0] ? (long)info[SK_MEMINFO_DROPS] : -1;
}
