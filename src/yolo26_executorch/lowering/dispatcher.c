/* AOTInductor's C interface before several shared objects, one for each kind of GPU; `dispatcher.py` fills it in. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

/* Of NVIDIA's driver and runtime; the objects inside need both, too. */
extern int cuInit(unsigned flags);
extern int cuDeviceGet(int* device, int ordinal);
extern int cuDeviceGetAttribute(int* value, int attribute, int device);
extern int cudaGetDevice(int* device);
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, SHARED_BYTES = 97 };

typedef struct {
    int major, minor;
    int exact; /* its machine code runs on this capability alone */
    int ptx;   /* newer GPUs run it, too */
    int shared_bytes; /* that its greediest kernel takes */
    const unsigned char *start, *end;
} Member;

/* @DATA@ */

static const Member members[] = {
/* @MEMBERS@ */
};
enum { MEMBERS = sizeof members / sizeof *members };

static const char* const names[] = {
/* @NAMES@ */
};
enum { FUNCTIONS = sizeof names / sizeof *names };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void* libraries[MEMBERS];
static void* functions[MEMBERS][FUNCTIONS];

typedef struct {
    void** functions;
    void* handle; /* of the object inside */
} Container;

typedef int32_t AOTIRuntimeError;
typedef Container* AOTInductorModelContainerHandle;
typedef void *AtenTensorHandle, *AOTInductorStreamHandle, *AOTIProxyExecutorHandle, *AOTInductorConstantMapHandle;
typedef struct AOTInductorConstantMapEntry AOTInductorConstantMapEntry;

/* The member for a GPU: its own, else the newest whose machine code it runs, else the newest with PTX; or -1. Others'
   kernels may want more shared memory than it has. */
static int choose(int major, int minor, int shared_bytes) {
    int found = -1;
    for (int i = 0; i < MEMBERS; i++) {
        const Member* one = &members[i];
        if (one->major == major && one->minor == minor) return i;
        bool fits = one->shared_bytes <= shared_bytes;
        if (one->major == major && one->minor < minor && !one->exact && fits) found = i;
    }
    for (int i = 0; found < 0 && i < MEMBERS; i++) {
        const Member* one = &members[MEMBERS - 1 - i];
        bool older = one->major < major || (one->major == major && one->minor < minor);
        if (one->ptx && older && one->shared_bytes <= shared_bytes) found = MEMBERS - 1 - i;
    }
    return found;
}

/* Load a member, by way of a file that has no name afterwards. */
static void* load(const Member* member) {
    const char* folder = getenv("TMPDIR");
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/yolo26-et-XXXXXX", folder && *folder ? folder : "/tmp");
    int file = length < (int)sizeof path ? mkstemp(path) : -1;
    if (file < 0) {
        fprintf(stderr, "yolo26-executorch: no file can be written in %s\n", folder && *folder ? folder : "/tmp");
        return NULL;
    }
    const unsigned char* at = member->start;
    while (at < member->end) {
        ssize_t written = write(file, at, (size_t)(member->end - at));
        if (written <= 0) break;
        at += written;
    }
    bool whole = at == member->end && close(file) == 0;
    void* library = whole ? dlopen(path, RTLD_LAZY | RTLD_LOCAL) : NULL;
    if (!library) {
        const char* why = whole ? dlerror() : "it could not be written whole";
        fprintf(stderr, "yolo26-executorch: %s: %s\n", path, why ? why : "unknown");
    }
    unlink(path);
    return library;
}

static void** functions_for(int index) {
    pthread_mutex_lock(&lock);
    if (!libraries[index] && (libraries[index] = load(&members[index])))
        for (int i = 0; i < FUNCTIONS; i++) functions[index][i] = dlsym(libraries[index], names[i]);
    void** found = libraries[index] ? functions[index] : NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

static AOTIRuntimeError create(Container** container, size_t models, const char* name, const char* cubins) {
    int ordinal = 0, device = 0, major = 0, minor = 0, shared_bytes = 0;
    const char* colon = name ? strchr(name, ':') : NULL;
    if (colon) ordinal = atoi(colon + 1);
    else if (cudaGetDevice(&ordinal)) return 1;
    if (cuInit(0) || cuDeviceGet(&device, ordinal) || cuDeviceGetAttribute(&major, CAPABILITY_MAJOR, device) ||
        cuDeviceGetAttribute(&minor, CAPABILITY_MINOR, device) ||
        cuDeviceGetAttribute(&shared_bytes, SHARED_BYTES, device)) {
        fprintf(stderr, "yolo26-executorch: NVIDIA's driver does not tell of GPU %d\n", ordinal);
        return 1;
    }
    int index = choose(major, minor, shared_bytes);
    if (index < 0) {
        fprintf(
            stderr, "yolo26-executorch: the GPU is of compute capability %d.%d; this model was compiled for", major, minor
        );
        for (int i = 0; i < MEMBERS; i++) fprintf(stderr, " %d.%d", members[i].major, members[i].minor);
        fprintf(stderr, "\n");
        return 1;
    }
    void** inside = functions_for(index);
    typedef AOTIRuntimeError (*Create)(void**, size_t, const char*, const char*);
    Create made = inside ? (Create)dlsym(libraries[index], "AOTInductorModelContainerCreateWithDevice") : NULL;
    Container* one = made ? calloc(1, sizeof *one) : NULL;
    if (!one) return 1;
    one->functions = inside;
    AOTIRuntimeError result = made(&one->handle, models, name, cubins);
    if (result) free(one);
    else *container = one;
    return result;
}

EXPORTED AOTIRuntimeError AOTInductorModelContainerCreateWithDevice(
    AOTInductorModelContainerHandle* container_handle, size_t num_models, const char* device_str, const char* cubin_dir
) {
    return create(container_handle, num_models, device_str, cubin_dir);
}

EXPORTED AOTIRuntimeError AOTInductorModelContainerCreate(
    AOTInductorModelContainerHandle* container_handle, size_t num_models, bool is_cpu, const char* cubin_dir
) {
    return is_cpu ? 1 : create(container_handle, num_models, "cuda", cubin_dir);
}

/* @FORWARDS@ */
