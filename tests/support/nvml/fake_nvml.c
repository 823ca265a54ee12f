/* A stand-in for NVIDIA's management library. It reads all that it says from the file `state` beside itself, at every call, so
 * that a test can change it while it is in use.
 *
 * A line is a list of words `key=value`; the first word says what the line is about:
 *
 *   host  init=9 driver=580.95.05 hang=nvmlDeviceGetMemoryInfo_v2:10000
 *   card  uuid=GPU-1 name=NVIDIA_A100 total=1024 temp=40
 *   part  of=0 uuid=MIG-1 total=512
 *   xid   card=0 code=79
 *
 * A key that is missing is not supported; `key=!15` fails with that code; a card with `all=!15` fails at everything.
 * `_` in a text is a space.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef unsigned int result;
typedef struct device *device; /* 1 + number of a card, or PART + number of a part */

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, TIMEOUT = 10 };
enum { PART = 0x1000, CARDS = 64 };

static int delivered;                /* events that were told */
static unsigned char watched[CARDS]; /* cards whose events are wanted */

/* ---- the file ---- */

static FILE *state(void) {
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)&state, &self)) return NULL;
    snprintf(path, sizeof path, "%s", self.dli_fname);
    char *end = strrchr(path, '/');
    snprintf(end ? end + 1 : path, 16, "state");
    return fopen(path, "r");
}

/* The line `number` of those that begin with `kind`. */
static int line_of(const char *kind, int number, char *line, int size) {
    FILE *file = state();
    int found = 0;
    size_t length = strlen(kind);
    while (file && !found && fgets(line, size, file)) {
        line[strcspn(line, "\n")] = 0;
        found = strncmp(line, kind, length) == 0 && (line[length] == ' ' || !line[length]) && number-- == 0;
    }
    if (file) fclose(file);
    return found;
}

/* The text behind `key=` in a line: OK, or the code that it fails with. */
static result word(const char *line, const char *key, char *text, int size) {
    size_t length = strlen(key);
    for (const char *at = strchr(line, ' '); at; at = strchr(at, ' ')) {
        at++;
        if (strncmp(at, key, length) || at[length] != '=') continue;
        snprintf(text, size, "%.*s", (int)strcspn(at + length + 1, " "), at + length + 1);
        return text[0] == '!' ? (result)atoi(text + 1) : OK;
    }
    return NOT_SUPPORTED;
}

static result host(const char *key, char *text, int size) {
    char line[4096];
    return line_of("host", 0, line, sizeof line) ? word(line, key, text, size) : NOT_SUPPORTED;
}

/* Stays in a call as long as the file says, and not longer than it says so. */
static void hang(const char *call) {
    char text[256];
    for (long waited = 0; host("hang", text, sizeof text) == OK; waited += 20) {
        char *time = strchr(text, ':');
        if (!time || strncmp(text, call, time - text) || call[time - text] || waited >= atol(time + 1)) return;
        usleep(20000);
    }
}

static result ask(device card, const char *key, char *text, int size) {
    char line[4096];
    long handle = (long)card;
    int found = handle >= PART ? line_of("part", handle - PART, line, sizeof line)
                               : line_of("card", handle - 1, line, sizeof line);
    if (!found) return INVALID;
    result code = word(line, "all", text, size);
    return code != NOT_SUPPORTED ? code : word(line, key, text, size);
}

static result number(device card, const char *key, u64 *value) {
    char text[64];
    result code = ask(card, key, text, sizeof text);
    if (code == OK) *value = strtoull(text, NULL, 0);
    return code;
}

static result small(const char *call, device card, const char *key, unsigned *value) {
    u64 wide = 0;
    hang(call);
    result code = number(card, key, &wide);
    if (code == OK) *value = (unsigned)wide;
    return code;
}

static result text(const char *call, device card, const char *key, char *out, unsigned size) {
    hang(call);
    result code = ask(card, key, out, size);
    for (char *at = out; code == OK && (at = strchr(at, '_')); *at = ' ') {}
    return code;
}

/* ---- the library ---- */

#ifndef WITHOUT_INIT
result nvmlInit_v2(void) {
    char code[16];
    hang(__func__);
    result told = host("init", code, sizeof code);
    return told == NOT_SUPPORTED ? OK : told;
}
#endif

result nvmlShutdown(void) { return OK; }

result nvmlSystemGetDriverVersion(char *out, unsigned size) { return host("driver", out, size); }

result nvmlDeviceGetCount_v2(unsigned *count) {
    char line[4096];
    hang(__func__);
    result code = host("count", line, sizeof line);
    if (code != OK && code != NOT_SUPPORTED) return code;
    for (*count = 0; line_of("card", *count, line, sizeof line); ++*count) {}
    return OK;
}

result nvmlDeviceGetHandleByIndex_v2(unsigned index, device *card) {
    char code[16];
    *card = (device)(long)(index + 1);
    result told = ask(*card, "handle", code, sizeof code);
    return told == NOT_SUPPORTED ? OK : told;
}

result nvmlDeviceGetUUID(device card, char *out, unsigned size) { return text(__func__, card, "uuid", out, size); }
result nvmlDeviceGetName(device card, char *out, unsigned size) { return text(__func__, card, "name", out, size); }

#ifndef WITHOUT_MEMORY
struct memory {
    unsigned version;
    u64 total, reserved, free, used;
};

result nvmlDeviceGetMemoryInfo_v2(device card, struct memory *memory) {
    hang(__func__);
    if (memory->version != (sizeof *memory | 2 << 24)) return INVALID;
    result code = number(card, "total", &memory->total);
    if (code == OK) code = number(card, "used", &memory->used);
    if (code == OK && number(card, "free", &memory->free) != OK) memory->free = memory->total - memory->used;
    return code;
}
#endif

result nvmlDeviceGetUtilizationRates(device card, unsigned *rates) {
    rates[1] = 0;
    return small(__func__, card, "load", &rates[0]);
}

result nvmlDeviceGetTemperature(device card, unsigned sensor, unsigned *celsius) {
    return sensor == 0 ? small(__func__, card, "temp", celsius) : INVALID;
}

result nvmlDeviceGetTemperatureThreshold(device card, unsigned which, unsigned *celsius) {
    const char *keys[] = {"shutdown", "slowdown", "memory_max", "max"};
    return which < 4 ? small(__func__, card, keys[which], celsius) : INVALID;
}

result nvmlDeviceGetPowerUsage(device card, unsigned *milliwatts) {
    return small(__func__, card, "power", milliwatts);
}
result nvmlDeviceGetEnforcedPowerLimit(device card, unsigned *milliwatts) {
    return small(__func__, card, "power_limit", milliwatts);
}
result nvmlDeviceGetCurrentClocksThrottleReasons(device card, u64 *reasons) { return number(card, "reasons", reasons); }
result nvmlDeviceGetTotalEccErrors(device card, unsigned type, unsigned counter, u64 *count) {
    return type == 1 && counter == 0 ? number(card, "ecc", count) : INVALID;
}
result nvmlDeviceGetPcieReplayCounter(device card, unsigned *count) { return small(__func__, card, "replays", count); }
result nvmlDeviceGetCurrPcieLinkGeneration(device card, unsigned *generation) {
    return small(__func__, card, "generation", generation);
}
result nvmlDeviceGetCurrPcieLinkWidth(device card, unsigned *width) { return small(__func__, card, "width", width); }

struct field {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type;
    result code;
    union {
        double real;
        unsigned narrow;
        u64 wide;
    } value;
};

result nvmlDeviceGetFieldValues(device card, int count, struct field *fields) {
    u64 dead;
    result all = number(card, "all", &dead);
    hang(__func__);
    if (all != NOT_SUPPORTED) return all;
    for (int at = 0; at < count; at++) {
        struct field *field = &fields[at];
        char key[32], value[64];
        snprintf(key, sizeof key, "field%u", field->id);
        field->code = ask(card, key, value, sizeof value);
        if (field->code != OK) continue;
        if (strchr(value, 'n') || strchr(value, '.')) {
            field->type = 0;
            field->value.real = strtod(value, NULL);
        } else {
            field->type = strchr(value, 'u') ? 1 : 3;
            field->value.wide = strtoull(value, NULL, 0);
        }
    }
    return OK;
}

struct process {
    unsigned pid;
    u64 memory;
    unsigned instance, compute;
};

result nvmlDeviceGetComputeRunningProcesses_v3(device card, unsigned *count, struct process *processes) {
    char text[1024];
    result code = ask(card, "processes", text, sizeof text);
    if (code == NOT_SUPPORTED) code = OK, text[0] = 0;
    if (code != OK) return code;
    unsigned found = 0, room = *count;
    for (char *at = strtok(text, ","); at; at = strtok(NULL, ","), found++) {
        if (found >= room) continue;
        char *memory = strchr(at, ':');
        processes[found] = (struct process){atoi(at), memory ? strtoull(memory + 1, NULL, 0) : ~0ull, ~0u, ~0u};
    }
    *count = found;
    return found > room ? SMALL : OK;
}

/* ---- parts of a card ---- */

result nvmlDeviceGetMigMode(device card, unsigned *now, unsigned *pending) {
    result code = small(__func__, card, "mig", now);
    *pending = *now;
    return code;
}

result nvmlDeviceGetMaxMigDeviceCount(device card, unsigned *count) {
    u64 mode;
    *count = 7;
    return number(card, "mig", &mode);
}

result nvmlDeviceGetMigDeviceHandleByIndex(device card, unsigned index, device *part) {
    char line[4096], of[16];
    for (int at = 0; line_of("part", at, line, sizeof line); at++) {
        if (word(line, "of", of, sizeof of) != OK || atoi(of) + 1 != (long)card || index-- != 0) continue;
        *part = (device)(long)(PART + at);
        return OK;
    }
    return NOT_FOUND;
}

/* ---- events ---- */

struct event {
    device card;
    u64 type, data;
    unsigned instance, compute;
};

result nvmlEventSetCreate(void **set) {
    *set = watched;
    return OK;
}
result nvmlEventSetFree(void *set) {
    memset(set, 0, sizeof watched);
    return OK;
}

result nvmlDeviceRegisterEvents(device card, u64 types, void *set) {
    char code[16];
    result told = ask(card, "register", code, sizeof code);
    if (told != OK && told != NOT_SUPPORTED) return told;
    if (types != 8 || (long)card > CARDS) return INVALID;
    ((unsigned char *)set)[(long)card - 1] = 1;
    return OK;
}

result nvmlEventSetWait_v2(void *set, struct event *event, unsigned limit) {
    char line[4096], value[64];
    for (unsigned waited = 0;; waited += 10) {
        result code = host("wait", value, sizeof value);
        if (code != OK && code != NOT_SUPPORTED) return code;
        while (line_of("xid", delivered, line, sizeof line)) {
            delivered++;
            int card = word(line, "card", value, sizeof value) == OK ? atoi(value) : -1;
            if (card < 0 || card >= CARDS || !((unsigned char *)set)[card]) continue;
            word(line, "code", value, sizeof value);
            *event = (struct event){(device)(long)(card + 1), 8, strtoull(value, NULL, 0), ~0u, ~0u};
            return OK;
        }
        if (waited >= limit) return TIMEOUT;
        usleep(10000);
    }
}
