// The least that a container start can cost here: clone into new namespaces, overlay, proc, pivot_root, exec, wait.
// floor LOWER WORK COMMAND...     LOWER: the root file system; WORK: a folder for the overlay. FLOOR_NONET: no netns.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#define CK(x) do { if ((x) < 0) { perror(#x); _exit(99); } } while (0)
static char stack[1 << 16];
static char lower[4096], base[4096]; static char **cmd;
static int child(void *a) {
  char up[4200], wk[4200], mg[4200], opt[13000], old[4300];
  snprintf(up, sizeof up, "%s/upper", base); snprintf(wk, sizeof wk, "%s/work", base); snprintf(mg, sizeof mg, "%s/merged", base);
  snprintf(old, sizeof old, "%s/old", mg);
  CK(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
  snprintf(opt, sizeof opt, "lowerdir=%s,upperdir=%s,workdir=%s", lower, up, wk);
  CK(mount("overlay", mg, "overlay", 0, opt));
  char pr[4300]; snprintf(pr, sizeof pr, "%s/proc", mg); CK(mount("proc", pr, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
  CK(sethostname("floor", 5));
  CK(chdir(mg)); CK(syscall(SYS_pivot_root, ".", ".")); CK(umount2(".", MNT_DETACH)); CK(chdir("/"));
  char *env[] = {"PATH=/bin", 0}; execve(cmd[0], cmd, env); perror("execve"); _exit(98);
}
int main(int c, char **v) {
  if (c < 4) return 2;
  int flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | SIGCHLD; if (getenv("FLOOR_NONET")) flags &= ~CLONE_NEWNET;
  strcpy(lower, v[1]); snprintf(base, sizeof base, "%s/c%d", v[2], getpid()); cmd = v + 3;
  char p[4300]; CK(mkdir(base, 0700));
  const char *d[] = {"upper", "work", "merged"}; for (int i = 0; i < 3; i++) { snprintf(p, sizeof p, "%s/%s", base, d[i]); CK(mkdir(p, 0755)); }
  int pid = clone(child, stack + sizeof stack, flags, 0); CK(pid);
  int st; CK(waitpid(pid, &st, 0));
  snprintf(p, sizeof p, "%s/work/work", base); rmdir(p);
  for (int i = 2; i >= 0; i--) { snprintf(p, sizeof p, "%s/%s", base, d[i]); rmdir(p); } rmdir(base);
  return WEXITSTATUS(st);
}
