/* Preloaded into a program, lets its n-th call of one kind fail, come short, or be its last.
 *
 *   SHIM_CALL  name of the call; all calls are counted without it
 *   SHIM_N     which one, from 1; none without it
 *   SHIM_ERR   EIO, ENOSPC, EINTR, EACCES, EAGAIN, SHORT (half of the bytes), or KILL
 *   SHIM_LOG   a file that gets the name of each call, one a line
 *   SHIM_TAPE  a file that gets every change of the file system, with its bytes: see `tape` below
 *
 * What the program says to people (stdout, stderr) is left alone. Linux and glibc. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <pthread.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

static const char *wanted, *kind;
static long target, seen;
static int log_fd = -1, tape_fd = -1, ready;

static int catch_direct_calls(void);
static void tape_complete(void);

__attribute__((constructor)) static void prepare(void) {
    const char *number = getenv("SHIM_N"), *log = getenv("SHIM_LOG"), *tape = getenv("SHIM_TAPE");
    wanted = getenv("SHIM_CALL");
    kind = getenv("SHIM_ERR");
    target = number ? atol(number) : 0;
    if (log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (tape) tape_fd = syscall(SYS_openat, AT_FDCWD, tape, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int complete = catch_direct_calls();
    if (tape_fd >= 0 && complete) tape_complete();
    ready = 1;
}

static int number_of(const char *name) {
    if (!strcmp(name, "ENOSPC")) return ENOSPC;
    if (!strcmp(name, "EINTR")) return EINTR;
    if (!strcmp(name, "EACCES")) return EACCES;
    if (!strcmp(name, "EAGAIN")) return EAGAIN;
    return EIO;
}

/* Whether this call is the one: 0 no, 1 it fails, 2 it comes short. */
static int hit(const char *name) {
    if (!ready) return 0;
    if (log_fd >= 0) {
        char line[32];
        size_t length = strlen(name);
        memcpy(line, name, length);
        line[length] = '\n';
        syscall(SYS_write, log_fd, line, length + 1);
    }
    if (wanted && strcmp(wanted, name)) return 0;
    if (!target || __sync_add_and_fetch(&seen, 1) != target || !kind) return 0;
    if (!strcmp(kind, "KILL")) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    if (!strcmp(kind, "SHORT")) return 2;
    errno = number_of(kind);
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define HOOK(result, name, parameters, arguments, failure) \
    result name parameters { \
        REAL(name); \
        if (hit(#name) == 1) return failure; \
        return real arguments; \
    }

/* The tape: what changed, in the order in which it did. Each entry is a head, then two paths (whole, and
 * without links up to the last part), then bytes. Files are known by their inodes. */
struct head {
    uint32_t what, first, second, mode;
    uint64_t inode, at, length;
};

enum { MADE = 1, FOLDER, BYTES, LENGTH, STORED, RENAMED, SWAPPED, LINKED, POINTED, REMOVED, COMPLETE };

/* Held over a change and its entry, so that their orders agree. Programs that were started by the program
 * write entries too; one entry is one write. */
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;

static void begin_change(void) {
    if (tape_fd >= 0) pthread_mutex_lock(&changing);
}

static void end_change(void) {
    if (tape_fd >= 0) {
        int kept = errno;
        pthread_mutex_unlock(&changing);
        errno = kept;
    }
}

static void tape(int what, uint64_t inode, uint64_t at, unsigned mode, const char *first, const char *second,
                 const void *bytes, size_t length) {
    int kept = errno;
    struct head head = {what, strlen(first), strlen(second), mode, inode, at, length};
    struct iovec parts[4] = {{&head, sizeof head},
                             {(void *)first, head.first},
                             {(void *)second, head.second},
                             {(void *)bytes, length}};
    size_t wanted_bytes = sizeof head + head.first + head.second + length;
    if (syscall(SYS_writev, tape_fd, parts, 4) != (long)wanted_bytes) abort();
    errno = kept;
}

/* The whole path of a name below an open folder. */
static const char *whole(int at, const char *path, char *out) {
    char text[PATH_MAX], above[PATH_MAX];
    static __typeof__(realpath) *real;
    if (!real) real = (__typeof__(realpath) *)dlsym(RTLD_NEXT, "realpath");
    if (path[0] == '/' || at == AT_FDCWD) snprintf(text, sizeof text, "%s", path);
    else snprintf(text, sizeof text, "/proc/self/fd/%d/%s", at, path);
    size_t length = strlen(text);
    while (length > 1 && text[length - 1] == '/') text[--length] = 0;
    char *cut = strrchr(text, '/');
    const char *name = cut ? cut + 1 : text;
    if (cut == text) strcpy(above, "/");
    else if (cut) snprintf(above, sizeof above, "%.*s", (int)(cut - text), text);
    else strcpy(above, ".");
    char parent[PATH_MAX];
    int kept = errno;
    if (!real(above, parent)) strcpy(parent, "?");
    errno = kept;
    if (snprintf(out, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", name) >= PATH_MAX) abort();
    return out;
}

/* The inode under a name, 0 if there is none. */
static uint64_t inode_at(int at, const char *path) {
    struct stat found;
    int kept = errno, failed = syscall(SYS_newfstatat, at, path, &found, AT_SYMLINK_NOFOLLOW);
    errno = kept;
    return failed ? 0 : found.st_ino;
}

static int stat_of(int fd, struct stat *found) {
    int kept = errno, failed = syscall(SYS_newfstatat, fd, "", found, AT_EMPTY_PATH);
    errno = kept;
    return failed;
}

/* Reads and writes: a short one does half, and at least one byte. */
#define TRANSFER(name, parameters, arguments, note) \
    ssize_t name parameters { \
        REAL(name); \
        if (fd > 2) { \
            int how = hit(#name); \
            if (how == 1) return -1; \
            if (how == 2 && count > 1) count /= 2; \
        } \
        begin_change(); \
        ssize_t result = real arguments; \
        if (tape_fd >= 0 && result > 0) { note; } \
        end_change(); \
        return result; \
    }

static void tape_bytes(int fd, const void *bytes, size_t count, off64_t at) {
    struct stat found;
    if (stat_of(fd, &found) || !S_ISREG(found.st_mode)) return;
    if (at < 0) at = lseek64(fd, 0, SEEK_CUR) - (off64_t)count;
    tape(BYTES, found.st_ino, at, 0, "", "", bytes, count);
}

TRANSFER(read, (int fd, void *bytes, size_t count), (fd, bytes, count), )
TRANSFER(pread64, (int fd, void *bytes, size_t count, off64_t at), (fd, bytes, count, at), )
TRANSFER(write, (int fd, const void *bytes, size_t count), (fd, bytes, count),
         tape_bytes(fd, bytes, result, -1))
TRANSFER(pwrite64, (int fd, const void *bytes, size_t count, off64_t at), (fd, bytes, count, at),
         tape_bytes(fd, bytes, result, at))

/* Marks calls to the system that come from here, in an argument that these calls do not have: programs also
 * call the system past the C library, and `caught` brings those calls here. */
#define OURS 0x6d69786c
#define ASK(call, a, b, c, d, e) \
    syscall(SYS_##call, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)OURS)

/* A change that is noted when it was made. */
#define CHANGE(name, parameters, ask, note) \
    int name parameters { \
        if (hit(#name) == 1) return -1; \
        if (tape_fd < 0) return ask; \
        char first[PATH_MAX], second[PATH_MAX]; \
        (void)first, (void)second; \
        begin_change(); \
        int result = ask; \
        if (!result) { note; } \
        end_change(); \
        return result; \
    }

/* Says that no change escapes the tape. */
static void tape_complete(void) { tape(COMPLETE, 0, 0, 0, "", "", "", 0); }

static void tape_stored(int fd) {
    struct stat found;
    if (!stat_of(fd, &found)) tape(STORED, found.st_ino, 0, 0, "", "", "", 0);
}

static void tape_length(int fd, off64_t length) {
    struct stat found;
    if (!stat_of(fd, &found)) tape(LENGTH, found.st_ino, length, 0, "", "", "", 0);
}

static void tape_names(int what, const char *first, const char *second) {
    tape(what, 0, 0, 0, first, second, "", 0);
}

CHANGE(fsync, (int fd), ASK(fsync, fd, 0, 0, 0, 0), tape_stored(fd))
CHANGE(fdatasync, (int fd), ASK(fdatasync, fd, 0, 0, 0, 0), tape_stored(fd))
CHANGE(ftruncate64, (int fd, off64_t length), ASK(ftruncate, fd, length, 0, 0, 0), tape_length(fd, length))
CHANGE(rename, (const char *from, const char *to), ASK(renameat2, AT_FDCWD, from, AT_FDCWD, to, 0),
       tape_names(RENAMED, whole(AT_FDCWD, from, first), whole(AT_FDCWD, to, second)))
CHANGE(renameat2, (int from_at, const char *from, int to_at, const char *to, unsigned flags),
       ASK(renameat2, from_at, from, to_at, to, flags),
       tape_names(flags & RENAME_EXCHANGE ? SWAPPED : RENAMED, whole(from_at, from, first), whole(to_at, to, second)))
CHANGE(renameat, (int from_at, const char *from, int to_at, const char *to), ASK(renameat2, from_at, from, to_at, to, 0),
       tape_names(RENAMED, whole(from_at, from, first), whole(to_at, to, second)))
CHANGE(mkdir, (const char *path, mode_t mode), ASK(mkdirat, AT_FDCWD, path, mode, 0, 0),
       tape(FOLDER, inode_at(AT_FDCWD, path), 0, mode, whole(AT_FDCWD, path, first), "", "", 0))
CHANGE(mkdirat, (int at, const char *path, mode_t mode), ASK(mkdirat, at, path, mode, 0, 0),
       tape(FOLDER, inode_at(at, path), 0, mode, whole(at, path, first), "", "", 0))
CHANGE(unlink, (const char *path), ASK(unlinkat, AT_FDCWD, path, 0, 0, 0),
       tape_names(REMOVED, whole(AT_FDCWD, path, first), ""))
CHANGE(unlinkat, (int at, const char *path, int flags), ASK(unlinkat, at, path, flags, 0, 0),
       tape_names(REMOVED, whole(at, path, first), ""))
CHANGE(rmdir, (const char *path), ASK(unlinkat, AT_FDCWD, path, AT_REMOVEDIR, 0, 0),
       tape_names(REMOVED, whole(AT_FDCWD, path, first), ""))
CHANGE(link, (const char *from, const char *to), ASK(linkat, AT_FDCWD, from, AT_FDCWD, to, 0),
       tape_names(LINKED, whole(AT_FDCWD, from, first), whole(AT_FDCWD, to, second)))
CHANGE(linkat, (int from_at, const char *from, int to_at, const char *to, int flags),
       ASK(linkat, from_at, from, to_at, to, flags),
       tape_names(LINKED, whole(from_at, from, first), whole(to_at, to, second)))
CHANGE(symlink, (const char *target, const char *path), ASK(symlinkat, target, AT_FDCWD, path, 0, 0),
       tape_names(POINTED, target, whole(AT_FDCWD, path, second)))

/* Ways to fill a file past this library: refused while there is a tape, so that the ordinary one is taken. */
#define SHARE_BLOCKS 0x4020940d
static int share_blocks(int fd, void *range) {
    if (tape_fd >= 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (hit("ioctl") == 1) return -1;
    return ASK(ioctl, fd, SHARE_BLOCKS, range, 0, 0);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags) {
    REAL(copy_file_range);
    if (tape_fd >= 0) {
        errno = ENOSYS;
        return -1;
    }
    if (hit("copy_file_range") == 1) return -1;
    return real(from, from_at, to, to_at, count, flags);
}

ssize_t sendfile64(int to, int from, off64_t *from_at, size_t count) {
    REAL(sendfile64);
    if (tape_fd >= 0) {
        errno = ENOSYS;
        return -1;
    }
    if (hit("sendfile64") == 1) return -1;
    return real(to, from, from_at, count);
}

static int statfs_direct(const char *path, void *found) {
    if (hit("statfs") == 1) return -1;
    return ASK(statfs, path, found, 0, 0, 0);
}

HOOK(int, pipe2, (int ends[2], int flags), (ends, flags), -1)
HOOK(int, flock, (int fd, int how), (fd, how), -1)
HOOK(int, statx, (int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict found),
     (at, path, flags, mask, found), -1)
HOOK(int, fstat64, (int fd, struct stat64 *found), (fd, found), -1)
HOOK(DIR *, opendir, (const char *path), (path), NULL)
HOOK(DIR *, fdopendir, (int fd), (fd), NULL)
HOOK(struct dirent64 *, readdir64, (DIR *folder), (folder), NULL)
HOOK(char *, realpath, (const char *restrict path, char *restrict out), (path, out), NULL)

/* Opens, and notes a file that was made or emptied. */
static int open_noted(int at, const char *path, int flags, int result) {
    struct stat found;
    char full[PATH_MAX];
    if (result >= 0 && !stat_of(result, &found)) {
        const char *name = (flags & O_TMPFILE) == O_TMPFILE ? "" : whole(at, path, full);
        tape(MADE, found.st_ino, 0, found.st_mode & 07777, name, "", "", 0);
    }
    return result;
}

#define OPEN(name, parameters, at, arguments) \
    int name parameters { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list more; \
            va_start(more, flags); \
            mode = va_arg(more, mode_t); \
            va_end(more); \
        } \
        if (hit(#name) == 1) return -1; \
        int makes = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE; \
        if (tape_fd < 0 || !(makes || (flags & O_TRUNC))) return real arguments; \
        begin_change(); \
        uint64_t before = (flags & O_TMPFILE) == O_TMPFILE ? 0 : inode_at(at, path); \
        int result = real arguments; \
        if (!before) open_noted(at, path, flags, result); \
        else if (result >= 0 && (flags & O_TRUNC)) tape_length(result, 0); \
        end_change(); \
        return result; \
    }

OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))

/* Gives its error as its result. */
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*work)(void *), void *with) {
    REAL(pthread_create);
    if (hit("pthread_create") == 1) return errno;
    return real(thread, how, work, with);
}

int posix_spawnp(pid_t *restrict process, const char *restrict path, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *restrict how, char *const arguments[restrict], char *const variables[restrict]) {
    REAL(posix_spawnp);
    if (hit("posix_spawnp") == 1) return errno;
    return real(process, path, actions, how, arguments, variables);
}

/* Calls that programs make without the C library are stopped by the kernel, which sends a signal, and made here
 * instead. Gives 1 where that works: x86-64 with filters of calls. */
#if defined(__x86_64__)
static void caught(int signal, siginfo_t *what, void *context) {
    (void)signal;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long a = registers[REG_RDI], b = registers[REG_RSI], c = registers[REG_RDX];
    long d = registers[REG_R10], e = registers[REG_R8];
    int kept = errno;
    long result;
    switch (what->si_syscall) {
    case SYS_rename: result = rename((char *)a, (char *)b); break;
    case SYS_renameat: result = renameat(a, (char *)b, c, (char *)d); break;
    case SYS_renameat2: result = renameat2(a, (char *)b, c, (char *)d, e); break;
    case SYS_mkdir: result = mkdir((char *)a, b); break;
    case SYS_mkdirat: result = mkdirat(a, (char *)b, c); break;
    case SYS_unlink: result = unlink((char *)a); break;
    case SYS_unlinkat: result = unlinkat(a, (char *)b, c); break;
    case SYS_rmdir: result = rmdir((char *)a); break;
    case SYS_link: result = link((char *)a, (char *)b); break;
    case SYS_linkat: result = linkat(a, (char *)b, c, (char *)d, e); break;
    case SYS_fsync: result = fsync(a); break;
    case SYS_fdatasync: result = fdatasync(a); break;
    case SYS_ftruncate: result = ftruncate64(a, b); break;
    case SYS_statfs: result = statfs_direct((char *)a, (void *)b); break;
    case SYS_ioctl: result = share_blocks(a, (void *)c); break;
    default: abort();
    }
    registers[REG_RAX] = result < 0 ? -errno : result;
    errno = kept;
}

static int catch_direct_calls(void) {
    static const int calls[] = {SYS_rename, SYS_renameat, SYS_renameat2, SYS_mkdir, SYS_mkdirat, SYS_unlink,
                                SYS_unlinkat, SYS_rmdir, SYS_link, SYS_linkat, SYS_fsync, SYS_fdatasync,
                                SYS_ftruncate, SYS_statfs, SYS_ioctl};
    enum { COUNT = sizeof calls / sizeof *calls };
    /* Four steps to tell the machine, one for each call, and at the end: allow; ours or not; sharing blocks or not. */
    struct sock_filter steps[COUNT + 16];
    int n = 0;
#define STEP(...) steps[n++] = (struct sock_filter)__VA_ARGS__
    STEP(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
    STEP(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    STEP(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    STEP(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    for (int i = 0; i < COUNT; i++) {
        int last = calls[i] == SYS_ioctl, ahead = COUNT - 1 - i;
        /* Behind the list: one step that allows, then those for ioctl, then those for the others. */
        STEP(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], ahead + (last ? 1 : 3), 0));
    }
    STEP(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    STEP(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])));
    STEP(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SHARE_BLOCKS, 0, 2));
    STEP(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])));
    STEP(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OURS, 0, 1));
    STEP(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    STEP(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
#undef STEP
    struct sigaction action = {0};
    action.sa_sigaction = caught;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (sigaction(SIGSYS, &action, NULL)) return 0;
    struct sock_fprog filter = {n, steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 0;
    return !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter);
}
#else
static int catch_direct_calls(void) { return 0; }
#endif
