/* Strikes one of the calls that change files below a folder: the process dies before it, or the call fails.
 *
 * Preloaded, it stands before the C library's calls, so that writes of Arrow and NumPy are met as those of Python are.
 * Until `faults_arm` is called, every call passes. While it is armed, nothing waits for the disk: no step of a process
 * that is killed depends on that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault { COUNT, KILL, EIO_ONCE, DISK_FULL, SHORT_WRITE, TORN_WRITE, REPLY_LOST };
enum verdict { PASS, FAIL, HALF, HALF_AND_DIE, DO_AND_FAIL };
enum kind { SYNC, WRITE, NEEDS_SPACE, NAME, FREES };

static char root[PATH_MAX];
static atomic_int armed;
static enum fault fault;
static long chosen;
static atomic_long count;
static atomic_int hit;
static char struck[64];

void faults_arm(const char *folder, int which, long step) {
    snprintf(root, sizeof root, "%s/", folder);
    fault = which;
    chosen = step;
    count = 0;
    hit = 0;
    armed = 1;
}

void faults_disarm(void) { armed = 0; }
long faults_count(void) { return count; }
const char *faults_struck(void) { return hit ? struck : ""; }

static int below(const char *path) { return strncmp(path, root, strlen(root)) == 0; }

static int fd_below(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 2);
    if (size < 0) return 0;
    path[size] = '/', path[size + 1] = 0;
    return below(path);
}

static int path_below(int folder, const char *path) {
    if (path[0] == '/') return below(path);
    if (folder != AT_FDCWD) return fd_below(folder);
    char here[PATH_MAX];
    if (!getcwd(here, sizeof here - 1)) return 0;
    strcat(here, "/");
    return below(here);
}

/* What becomes of a call that would change a file below the folder. */
static enum verdict judge(const char *name, enum kind kind) {
    if (fault == SHORT_WRITE || fault == TORN_WRITE) {
        if (kind != WRITE) return PASS;
    } else if ((fault == REPLY_LOST && kind != NAME) || (fault == DISK_FULL && kind == FREES)) {
        return PASS;
    }
    long step = atomic_fetch_add(&count, 1) + 1;
    if (step == chosen) {
        snprintf(struck, sizeof struck, "%s", name);
        hit = 1;
    } else if (!(fault == DISK_FULL && hit && (kind == WRITE || kind == NEEDS_SPACE))) {
        return PASS;
    }
    switch (fault) {
    case KILL: kill(getpid(), SIGKILL); for (;;) pause();
    case EIO_ONCE: errno = EIO; return FAIL;
    case DISK_FULL: errno = ENOSPC; return FAIL;
    case SHORT_WRITE: return HALF;
    case TORN_WRITE: return HALF_AND_DIE;
    case REPLY_LOST: return DO_AND_FAIL;
    default: return PASS;
    }
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* Calls that return -1 when they fail. */
#define PLAIN(name, kind, where, parameters, arguments) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        if (!armed || !(where)) return real arguments; \
        switch (judge(#name, kind)) { \
        case FAIL: return -1; \
        case DO_AND_FAIL: \
            if (real arguments == 0) errno = EIO; \
            return -1; \
        default: return real arguments; \
        } \
    }

PLAIN(rename, NAME, path_below(AT_FDCWD, to), (const char *from, const char *to), (from, to))
PLAIN(renameat, NAME, path_below(b, to), (int a, const char *from, int b, const char *to), (a, from, b, to))
PLAIN(renameat2, NAME, path_below(b, to), (int a, const char *from, int b, const char *to, unsigned int flags),
      (a, from, b, to, flags))
PLAIN(link, NAME, path_below(AT_FDCWD, to), (const char *from, const char *to), (from, to))
PLAIN(linkat, NAME, path_below(b, to), (int a, const char *from, int b, const char *to, int flags),
      (a, from, b, to, flags))
PLAIN(symlink, NEEDS_SPACE, path_below(AT_FDCWD, to), (const char *from, const char *to), (from, to))
PLAIN(unlink, FREES, path_below(AT_FDCWD, path), (const char *path), (path))
PLAIN(unlinkat, FREES, path_below(at, path), (int at, const char *path, int flags), (at, path, flags))
PLAIN(remove, FREES, path_below(AT_FDCWD, path), (const char *path), (path))
PLAIN(rmdir, FREES, path_below(AT_FDCWD, path), (const char *path), (path))
PLAIN(mkdir, NEEDS_SPACE, path_below(AT_FDCWD, path), (const char *path, mode_t mode), (path, mode))
PLAIN(mkdirat, NEEDS_SPACE, path_below(at, path), (int at, const char *path, mode_t mode), (at, path, mode))
PLAIN(truncate, FREES, path_below(AT_FDCWD, path), (const char *path, off_t size), (path, size))
PLAIN(truncate64, FREES, path_below(AT_FDCWD, path), (const char *path, off_t size), (path, size))
PLAIN(ftruncate, FREES, fd_below(fd), (int fd, off_t size), (fd, size))
PLAIN(ftruncate64, FREES, fd_below(fd), (int fd, off_t size), (fd, size))
PLAIN(futimens, FREES, fd_below(fd), (int fd, const struct timespec times[2]), (fd, times))

/* Syncs: they are steps that may fail, but the disk is not waited for. */
#define SYNCS(name, where, parameters, arguments) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        if (!armed || !(where)) return real arguments; \
        return judge(#name, SYNC) == FAIL ? -1 : 0; \
    }

SYNCS(fsync, fd_below(fd), (int fd), (fd))
SYNCS(fdatasync, fd_below(fd), (int fd), (fd))
SYNCS(msync, 1, (void *start, size_t size, int flags), (start, size, flags))

void sync(void) {
    REAL(void, "sync", void);
    if (!armed) real();
    else if (fault == KILL || fault == COUNT) judge("sync", SYNC);
}

#define ALLOCATE(name) \
    int name(int fd, off_t start, off_t size) { \
        REAL(int, #name, int, off_t, off_t); \
        if (armed && fd_below(fd) && judge(#name, NEEDS_SPACE) == FAIL) return errno; \
        return real(fd, start, size); \
    }

ALLOCATE(posix_fallocate)
ALLOCATE(posix_fallocate64)

/* Opening is a step where it makes or empties a file. */
#define MAKES(flags) ((flags) & (O_CREAT | O_TRUNC) || ((flags) & O_TMPFILE) == O_TMPFILE)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = MAKES(flags) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if (armed && MAKES(flags) && path_below(AT_FDCWD, path) && judge(#name, NEEDS_SPACE) == FAIL) return -1; \
        return real(path, flags, mode); \
    }

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = MAKES(flags) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if (armed && MAKES(flags) && path_below(at, path) && judge(#name, NEEDS_SPACE) == FAIL) return -1; \
        return real(at, path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, #name, const char *, const char *); \
        int makes = mode[0] != 'r'; \
        if (armed && makes && path_below(AT_FDCWD, path) && judge(#name, NEEDS_SPACE) == FAIL) return NULL; \
        return real(path, mode); \
    }

FOPEN(fopen)
FOPEN(fopen64)

/* Writes: `size` bytes, of which `half` are written before the call ends early, or the process. */
#define WRITES(name, fd, size, whole, half) \
    if (!armed || !fd_below(fd)) return whole; \
    switch (judge(name, WRITE)) { \
    case FAIL: return -1; \
    case HALF: return (size) < 2 ? whole : half; \
    case HALF_AND_DIE: \
        if ((size) >= 2 && half < 0) return -1; \
        die(); \
    default: return whole; \
    }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    WRITES("write", fd, size, real(fd, data, size), real(fd, data, size / 2))
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    WRITES("pwrite", fd, size, real(fd, data, size, at), real(fd, data, size / 2, at))
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    WRITES("pwrite64", fd, size, real(fd, data, size, at), real(fd, data, size / 2, at))
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    WRITES("writev", fd, n, real(fd, parts, n), real(fd, parts, n / 2))
}

ssize_t sendfile(int out, int in, off_t *at, size_t size) {
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    WRITES("sendfile", out, size, real(out, in, at, size), real(out, in, at, 1))
}

ssize_t sendfile64(int out, int in, off_t *at, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off_t *, size_t);
    WRITES("sendfile64", out, size, real(out, in, at, size), real(out, in, at, 1))
}

ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned int flags) {
    REAL(ssize_t, "copy_file_range", int, off_t *, int, off_t *, size_t, unsigned int);
    WRITES("copy_file_range", out, size, real(in, from, out, to, size, flags), real(in, from, out, to, 1, flags))
}

size_t fwrite(const void *data, size_t width, size_t n, FILE *file) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    if (!armed || fileno(file) < 0 || !fd_below(fileno(file))) return real(data, width, n, file);
    switch (judge("fwrite", WRITE)) {
    case FAIL: return 0;
    /* The C library goes on after a short write by itself. */
    case HALF_AND_DIE:
        real(data, width, n / 2, file);
        fflush(file);
        die();
    default: return real(data, width, n, file);
    }
}
