/* The archive around a PyTorch checkpoint: a ZIP file whose files are stored, not compressed, so that tensors can be
 * used where they lie. Every offset and size is checked before it is used; what PyTorch never writes (compression,
 * encryption, several disks, names twice, files that overlap) is refused.
 *
 * Checksums are not compared: that would read every tensor twice, safetensors has none either, and PyTorch itself may
 * write wrong ones (torch.serialization.set_crc32_options(False)). Damage shows as a size or opcode that does not fit,
 * or in the content hash of the loaded model.
 *
 * Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 (structure) and 4.5.3 (64-bit sizes); what PyTorch does with it:
 * caffe2/serialize/inline_container.h. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "tensor/torch_internal.h"

#define LOCAL_SIGNATURE 0x04034b50u
#define CENTRAL_SIGNATURE 0x02014b50u
#define END_SIGNATURE 0x06054b50u
#define END64_SIGNATURE 0x06064b50u
#define LOCATOR64_SIGNATURE 0x07064b50u
enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, END64_BYTES = 56, LOCATOR64_BYTES = 20 };
#define MAX_COMMENT 65535

#define FLAG_ENCRYPTED 0x2041u /* bits 0, 6 and 13: contents or directory */
#define METHOD_STORED 0
#define SEE_EXTRA 0xFFFFFFFFu /* the value stands in the extra field, in 64 bits */
#define EXTRA_64 1

/* Where the central directory lies. */
typedef struct directory {
  uint64_t begin, n_bytes, n_entry;
  size_t end; /* of the room for files and directory: where the end records begin */
} directory;

static uint16_t get_16(const unsigned char *at) { return (uint16_t)(at[0] | at[1] << 8); }
static uint32_t get_32(const unsigned char *at) { return get_16(at) | (uint32_t)get_16(at + 2) << 16; }
static uint64_t get_64(const unsigned char *at) { return get_32(at) | (uint64_t)get_32(at + 4) << 32; }

/* ---- the end of the file ---- */

/* The end record: the last one whose comment reaches to the end of the file. */
static sl_status find_end(const sl_zip *zip, size_t *at) {
  size_t n_comment = 0;
  for (; zip->n_bytes >= END_BYTES + n_comment && n_comment <= MAX_COMMENT; n_comment++) {
    *at = zip->n_bytes - END_BYTES - n_comment;
    const unsigned char *end = zip->bytes + *at;
    if (get_32(end) == END_SIGNATURE && get_16(end + 20) == n_comment) return SL_OK;
  }
  SL_FAIL(SL_ERROR_FORMAT,
          "%s: expected a ZIP file (as torch.save writes since PyTorch 1.6), found no ZIP directory at its end: "
          "another format, or an incomplete download",
          zip->path);
}

/* The 64-bit end record, which stands in front of the other one where there is one. */
static sl_status read_end_64(const sl_zip *zip, size_t locator_at, directory *d) {
  const unsigned char *locator = zip->bytes + locator_at;
  const uint64_t at = get_64(locator + 8);
  if (locator_at < END64_BYTES || at > locator_at - END64_BYTES || get_32(zip->bytes + at) != END64_SIGNATURE)
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected a 64-bit ZIP end record at byte %llu, found none", zip->path,
            (unsigned long long)at);
  const unsigned char *end = zip->bytes + at;
  const bool one_part = get_32(locator + 4) == 0 && get_32(end + 16) == 0 && get_32(end + 20) == 0;
  if (!one_part || get_64(end + 24) != get_64(end + 32))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: expected a ZIP file of one part, found one of several", zip->path);
  *d = (directory){get_64(end + 48), get_64(end + 40), get_64(end + 32), (size_t)at};
  return SL_OK;
}

static sl_status find_directory(const sl_zip *zip, directory *d) {
  size_t at;
  SL_TRY(find_end(zip, &at));
  const unsigned char *end = zip->bytes + at;
  if (at >= LOCATOR64_BYTES && get_32(end - LOCATOR64_BYTES) == LOCATOR64_SIGNATURE) {
    SL_TRY(read_end_64(zip, at - LOCATOR64_BYTES, d));
  } else {
    if (get_16(end + 4) != 0 || get_16(end + 6) != 0 || get_16(end + 8) != get_16(end + 10))
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: expected a ZIP file of one part, found one of several", zip->path);
    *d = (directory){get_32(end + 16), get_32(end + 12), get_16(end + 10), at};
  }
  if (d->begin > d->end || d->n_bytes != d->end - d->begin)
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: ZIP directory: expected to end at byte %zu, where its end record stands, found %llu bytes from byte "
            "%llu",
            zip->path, d->end, (unsigned long long)d->n_bytes, (unsigned long long)d->begin);
  if (d->n_entry > d->n_bytes / CENTRAL_BYTES)
    SL_FAIL(SL_ERROR_FORMAT, "%s: ZIP directory: expected at most %llu files in %llu bytes, found %llu", zip->path,
            (unsigned long long)(d->n_bytes / CENTRAL_BYTES), (unsigned long long)d->n_bytes,
            (unsigned long long)d->n_entry);
  return SL_OK;
}

/* ---- one file ---- */

static sl_status fail_entry(const sl_zip *zip, const sl_zip_entry *entry, sl_status status, const char *what) {
  SL_FAIL(status, "%s: file \"%.*s\" in the archive: %s", zip->path, (int)(entry->n_name > 200 ? 200 : entry->n_name),
          entry->name, what);
}

/* Takes the 64-bit values of the extra fields for those of `values` that say so, in the format's order. */
static bool read_extra_64(const unsigned char *extra, size_t n_extra, uint64_t values[3]) {
  int n_wanted = 0;
  for (int i = 0; i < 3; i++) n_wanted += values[i] == SEE_EXTRA;
  while (n_wanted > 0 && n_extra >= 4) {
    const size_t n_field = get_16(extra + 2);
    if (n_field > n_extra - 4) return false;
    if (get_16(extra) == EXTRA_64) {
      if (n_field < 8 * (size_t)n_wanted) return false;
      const unsigned char *next = extra + 4;
      for (int i = 0; i < 3; i++) {
        if (values[i] != SEE_EXTRA) continue;
        values[i] = get_64(next);
        next += 8;
      }
      return true;
    }
    extra += 4 + n_field;
    n_extra -= 4 + n_field;
  }
  return n_wanted == 0;
}

/* The local header must tell the same name, and the content lie between it and `limit`. Its sizes may be left out
 * (flag bit 3, as PyTorch does), so the directory's count. */
static sl_status place_entry(const sl_zip *zip, sl_zip_entry *entry, uint64_t at, uint64_t n_bytes, size_t limit) {
  if (limit < LOCAL_BYTES || at > limit - LOCAL_BYTES || get_32(zip->bytes + at) != LOCAL_SIGNATURE)
    return fail_entry(zip, entry, SL_ERROR_FORMAT, "expected a header where the directory says, found none");
  const unsigned char *header = zip->bytes + at;
  const size_t n_name = get_16(header + 26), n_extra = get_16(header + 28);
  const size_t begin = (size_t)at + LOCAL_BYTES + n_name + n_extra;
  if (begin > limit || n_bytes > limit - begin)
    return fail_entry(zip, entry, SL_ERROR_FORMAT, "expected to end before the directory begins, found more bytes");
  if (n_name != entry->n_name || memcmp(header + LOCAL_BYTES, entry->name, n_name) != 0)
    return fail_entry(zip, entry, SL_ERROR_FORMAT, "expected the same name in its header, found another");
  if (get_16(header + 8) != METHOD_STORED)
    return fail_entry(zip, entry, SL_ERROR_UNSUPPORTED, "expected no compression (as torch.save writes), found some");
  entry->header = (size_t)at;
  entry->begin = begin;
  entry->n_bytes = (size_t)n_bytes;
  return SL_OK;
}

/* Reads the directory's entry at *at, and moves *at behind it. */
static sl_status read_entry(const sl_zip *zip, const directory *d, size_t *at, sl_zip_entry *entry) {
  const unsigned char *central = zip->bytes + *at;
  if (d->end - *at < CENTRAL_BYTES || get_32(central) != CENTRAL_SIGNATURE)
    SL_FAIL(SL_ERROR_FORMAT, "%s: ZIP directory: expected an entry at byte %zu, found none", zip->path, *at);
  const size_t n_name = get_16(central + 28), n_extra = get_16(central + 30), n_comment = get_16(central + 32);
  if (n_name + n_extra + n_comment > d->end - *at - CENTRAL_BYTES)
    SL_FAIL(SL_ERROR_FORMAT, "%s: ZIP directory: entry at byte %zu: expected to end in the directory, found more bytes",
            zip->path, *at);
  entry->name = (const char *)central + CENTRAL_BYTES;
  entry->n_name = n_name;
  *at += CENTRAL_BYTES + n_name + n_extra + n_comment;
  if (n_name == 0 || memchr(entry->name, 0, n_name) || !sl_utf8_valid(entry->name, n_name, NULL))
    SL_FAIL(SL_ERROR_FORMAT, "%s: ZIP directory: expected a name in UTF-8, found something else", zip->path);
  if (get_16(central + 8) & FLAG_ENCRYPTED)
    return fail_entry(zip, entry, SL_ERROR_UNSUPPORTED, "expected plain content, found encryption");
  if (get_16(central + 10) != METHOD_STORED)
    return fail_entry(zip, entry, SL_ERROR_UNSUPPORTED, "expected no compression (as torch.save writes), found some");
  /* Size, stored size, place. */
  uint64_t values[3] = {get_32(central + 24), get_32(central + 20), get_32(central + 42)};
  if (!read_extra_64(central + CENTRAL_BYTES + n_name, n_extra, values))
    return fail_entry(zip, entry, SL_ERROR_FORMAT, "expected its 64-bit sizes in the extra field, found none");
  if (values[0] != values[1])
    return fail_entry(zip, entry, SL_ERROR_FORMAT, "expected two equal sizes, as nothing is compressed, found others");
  return place_entry(zip, entry, values[2], values[0], (size_t)d->begin);
}

/* ---- all files ---- */

static int compare_places(const void *left, const void *right) {
  const sl_zip_entry *a = left, *b = right;
  return a->header < b->header ? -1 : a->header > b->header;
}

static int compare_bytes(const char *a, size_t n_a, const char *b, size_t n_b) {
  const int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
  return order ? order : n_a < n_b ? -1 : n_a > n_b;
}

static int compare_names(const void *left, const void *right) {
  const sl_zip_entry *a = left, *b = right;
  return compare_bytes(a->name, a->n_name, b->name, b->n_name);
}

/* Leaves the entries sorted by name. */
static sl_status check_entries(sl_zip *zip) {
  qsort(zip->entries, zip->n_entry, sizeof *zip->entries, compare_places);
  for (size_t i = 1; i < zip->n_entry; i++)
    if (zip->entries[i].header < zip->entries[i - 1].begin + zip->entries[i - 1].n_bytes)
      return fail_entry(zip, &zip->entries[i], SL_ERROR_FORMAT,
                        "expected to begin behind the file before it, found an overlap");
  qsort(zip->entries, zip->n_entry, sizeof *zip->entries, compare_names);
  for (size_t i = 1; i < zip->n_entry; i++)
    if (compare_names(&zip->entries[i - 1], &zip->entries[i]) == 0)
      return fail_entry(zip, &zip->entries[i], SL_ERROR_FORMAT, "expected once, found twice");
  return SL_OK;
}

static sl_status read_entries(sl_zip *zip, const directory *d) {
  size_t at = (size_t)d->begin;
  for (size_t i = 0; i < zip->n_entry; i++) SL_TRY(read_entry(zip, d, &at, &zip->entries[i]));
  if (at != d->end)
    SL_FAIL(SL_ERROR_FORMAT, "%s: ZIP directory: expected %zu files, found more bytes behind them", zip->path,
            zip->n_entry);
  const char *slash = zip->n_entry ? memchr(zip->entries[0].name, '/', zip->entries[0].n_name) : NULL;
  if (slash) {
    zip->folder = zip->entries[0].name;
    zip->n_folder = (size_t)(slash - zip->folder) + 1;
  }
  return check_entries(zip);
}

sl_status sl_zip_open(sl_zip *zip, const char *path, const unsigned char *bytes, size_t n_bytes) {
  *zip = (sl_zip){.path = path, .bytes = bytes, .n_bytes = n_bytes, .folder = ""};
  directory d;
  SL_TRY(find_directory(zip, &d));
  zip->n_entry = (size_t)d.n_entry;
  SL_TRY(SL_ALLOC(zip->entries, zip->n_entry, "ZIP directory"));
  const sl_status status = read_entries(zip, &d);
  if (status) sl_zip_dispose(zip);
  return status;
}

void sl_zip_dispose(sl_zip *zip) {
  free(zip->entries);
  zip->entries = NULL;
}

/* Compares an entry's name with folder, kind and key, which follow each other. */
static int compare_name_parts(const sl_zip *zip, const sl_zip_entry *entry, const char *kind, const char *key,
                              size_t n_key) {
  const struct {
    const char *text;
    size_t n;
  } parts[] = {{zip->folder, zip->n_folder}, {kind, strlen(kind)}, {key, n_key}};
  const char *rest = entry->name;
  size_t n_rest = entry->n_name;
  for (int i = 0; i < 3; i++) {
    const size_t n = i < 2 && n_rest > parts[i].n ? parts[i].n : n_rest;
    const int order = compare_bytes(parts[i].text, parts[i].n, rest, n);
    if (order) return order;
    rest += n;
    n_rest -= n;
  }
  return 0;
}

const sl_zip_entry *sl_zip_find(const sl_zip *zip, const char *kind, const char *key, size_t n_key) {
  size_t low = 0, high = zip->n_entry;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const int order = compare_name_parts(zip, &zip->entries[middle], kind, key, n_key);
    if (order == 0) return &zip->entries[middle];
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return NULL;
}
