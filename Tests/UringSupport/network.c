#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <string.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "UringSupport.h"

int thread_enter_private_network(int mtu) {
  if (unshare(CLONE_NEWNET) != 0) return errno;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  struct ifreq request;
  memset(&request, 0, sizeof request);
  strcpy(request.ifr_name, "lo");
  int error = 0;
  if (mtu > 0) {
    request.ifr_mtu = mtu;
    if (ioctl(fd, SIOCSIFMTU, &request) != 0) error = errno;
  }
  request.ifr_flags = IFF_UP;
  if (error == 0 && ioctl(fd, SIOCSIFFLAGS, &request) != 0) error = errno;
  close(fd);
  return error;
}

int thread_forbid_io_uring(void) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return errno;
  return 0;
}

int thread_drop_network_administration(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) != 0) return errno;
  for (int i = 0; i < 2; i++) {
    if (i != CAP_TO_INDEX(CAP_NET_ADMIN)) continue;
    data[i].effective &= ~CAP_TO_MASK(CAP_NET_ADMIN);
    data[i].permitted &= ~CAP_TO_MASK(CAP_NET_ADMIN);
  }
  return syscall(SYS_capset, &header, data) == 0 ? 0 : errno;
}

int forge_unreachable(uint16_t from, uint16_t to, int code, uint16_t mtu) {
  struct {
    struct icmphdr icmp;
    struct iphdr ip;
    struct udphdr udp;
  } __attribute__((packed)) answer;
  memset(&answer, 0, sizeof answer);
  answer.icmp.type = ICMP_DEST_UNREACH;
  answer.icmp.code = (uint8_t)code;
  answer.icmp.un.frag.mtu = htons(mtu);
  answer.ip.version = 4;
  answer.ip.ihl = 5;
  answer.ip.ttl = 64;
  answer.ip.protocol = IPPROTO_UDP;
  answer.ip.tot_len = htons(1428);
  answer.ip.saddr = answer.ip.daddr = htonl(INADDR_LOOPBACK);
  answer.udp.source = htons(from);
  answer.udp.dest = htons(to);
  answer.udp.len = htons(1408);
  uint32_t sum = 0;
  for (size_t at = 0; at < sizeof answer; at += 2) {
    uint16_t word;
    memcpy(&word, (const char *)&answer + at, 2);
    sum += word;
  }
  while (sum >> 16) sum = (sum & 0xFFFF) + (sum >> 16);
  answer.icmp.checksum = (uint16_t)~sum;
  int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
  if (fd < 0) return errno;
  struct sockaddr_in there = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  ssize_t sent = sendto(fd, &answer, sizeof answer, 0, (struct sockaddr *)&there, sizeof there);
  int error = sent < 0 ? errno : 0;
  close(fd);
  return error;
}
