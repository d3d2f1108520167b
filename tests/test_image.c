/* Pictures: decoding and resizing against what Pillow gave (tests/golden/pixels); damaged and hostile files;
 * orientation; every allocation failing once. */
#include "image_fixture.h"

#include <math.h>
#include <sys/stat.h>

/* The Pillow that made the golden pictures brings its own libjpeg-turbo; the standard leaves decoders some freedom. */
#define JPEG_TOLERANCE 3 /* grey levels */

static uint8_t *read_golden(const char *name, size_t *n_bytes) {
  char path[512], *bytes;
  snprintf(path, sizeof path, GOLDEN "%s", name);
  assert_ok(sl_file_read(path, (size_t)1 << 24, &bytes, n_bytes));
  return (uint8_t *)bytes;
}

/* ---- against Pillow ---- */

static void test_golden_decode(void **state) {
  (void)state;
  int n_file = 0;
  const char *name;
  json_t *facts;
  json_object_foreach(json_object_get(golden, "files"), name, facts) {
    char path[512];
    snprintf(path, sizeof path, GOLDEN "%s", name);
    sl_rgb image;
    if (strstr(name, ".bmp")) { /* transformers reads it, sightline says that it does not */
      assert_int_equal(sl_rgb_load(&image, path, true), SL_ERROR_UNSUPPORTED);
      assert_message("plain.bmp");
      assert_message("a BMP");
      continue;
    }
    bool is_exact = strcmp(json_string_value(json_object_get(facts, "compare_decode")), "exact") == 0;
    bool is_rotated = golden_tensor(name, "rgb_unrotated", false) != NULL;
    sl_rgb upright = golden_rgb(name, "rgb"), stored = golden_rgb(name, is_rotated ? "rgb_unrotated" : "rgb");
    assert_ok(sl_rgb_load(&image, path, true));
    assert_rgb(&image, &upright, is_exact ? 0 : JPEG_TOLERANCE, name);
    sl_rgb_dispose(&image);
    assert_ok(sl_rgb_load(&image, path, false));
    assert_rgb(&image, &stored, is_exact ? 0 : JPEG_TOLERANCE, name);
    sl_rgb_dispose(&image);
    sl_rgb_dispose(&upright);
    sl_rgb_dispose(&stored);
    n_file++;
  }
  assert_true(n_file >= 20);
}

static void test_golden_resize(void **state) {
  (void)state;
  static const char *const names[] = {[SL_FILTER_NEAREST] = "nearest",
                                      [SL_FILTER_BILINEAR] = "bilinear",
                                      [SL_FILTER_BICUBIC] = "bicubic",
                                      [SL_FILTER_LANCZOS] = "lanczos"};
  int n_size = 0;
  sl_rgb source = golden_rgb("resize", "source");
  for (int i = 0; i < sl_safetensors_count(pixels); i++) {
    const sl_tensor *tensor = sl_safetensors_at(pixels, i);
    char name[32];
    int width_px, height_px;
    if (sscanf(tensor->name, "resize/%31[a-z]/%dx%d", name, &width_px, &height_px) != 3) continue;
    sl_filter filter = SL_FILTER_NEAREST;
    while (filter < SL_FILTER_LANCZOS && strcmp(names[filter], name) != 0) filter++;
    sl_rgb expected = golden_rgb("resize", tensor->name + strlen("resize/"));
    sl_rgb found;
    assert_ok(sl_rgb_resize(&found, &source, width_px, height_px, filter));
    assert_rgb(&found, &expected, 0, tensor->name);
    sl_rgb_dispose(&found);
    sl_rgb_dispose(&expected);
    n_size++;
  }
  sl_rgb_dispose(&source);
  assert_true(n_size >= 24);
}

/* ---- damaged and hostile files ---- */

static void test_truncated(void **state) {
  (void)state;
  const char *name;
  json_t *facts;
  json_object_foreach(json_object_get(golden, "files"), name, facts) {
    size_t n_bytes;
    uint8_t *bytes = read_golden(name, &n_bytes);
    size_t step = n_bytes / 100 + 1;
    for (size_t n = 0; n < n_bytes; n += n < 64 || n + 64 > n_bytes ? 1 : step) {
      uint8_t *part = malloc(n ? n : 1); /* of its own, so that the sanitizer sees reads past the end */
      assert_non_null(part);
      memcpy(part, bytes, n);
      sl_rgb image;
      if (sl_rgb_decode(&image, part, n, name, true) == SL_OK)
        fail_msg("%s cut to %zu of %zu bytes was read", name, n, n_bytes);
      assert_message(name);
      if (n >= 12 && !strstr(name, ".bmp")) assert_message("truncated");
      assert_null(image.data);
      free(part);
    }
    free(bytes);
  }
}

/* One byte wrong at a time: a picture or an error, but nothing else. */
static void test_flipped(void **state) {
  (void)state;
  const char *name;
  json_t *facts;
  json_object_foreach(json_object_get(golden, "files"), name, facts) {
    size_t n_bytes;
    uint8_t *bytes = read_golden(name, &n_bytes);
    size_t step = n_bytes / 150 + 1;
    for (size_t i = 0; i < n_bytes; i += i < 100 ? 1 : step) {
      bytes[i] ^= (uint8_t)(0xff >> i % 8);
      sl_rgb image;
      sl_status status = sl_rgb_decode(&image, bytes, n_bytes, name, true);
      bytes[i] ^= (uint8_t)(0xff >> i % 8);
      if (status == SL_OK) assert_non_null(image.data);
      if (status != SL_OK) assert_message(name);
      sl_rgb_dispose(&image);
    }
    free(bytes);
  }
}

static uint32_t crc32_of(const uint8_t *bytes, size_t n_bytes) {
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < n_bytes; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ ((crc & 1) ? 0xedb88320u : 0);
  }
  return ~crc;
}

static void put_be32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* The 1 x 1 golden picture, claiming another size. */
static uint8_t *make_bomb(uint32_t width_px, uint32_t height_px, size_t *n_bytes) {
  uint8_t *bytes = read_golden("one.png", n_bytes);
  put_be32(bytes + 16, width_px);
  put_be32(bytes + 20, height_px);
  put_be32(bytes + 29, crc32_of(bytes + 12, 17));
  return bytes;
}

static void expect_decode_error(const void *bytes, size_t n_bytes, sl_status expected, const char *part) {
  sl_rgb image = {1, 1, NULL};
  assert_int_equal(sl_rgb_decode(&image, bytes, n_bytes, "some/file", true), expected);
  assert_null(image.data);
  assert_message("some/file");
  assert_message(part);
}

static void test_limits(void **state) {
  (void)state;
  static const struct {
    uint32_t width_px, height_px;
    const char *part;
    sl_status status;
  } bombs[] = {{65535, 65535, "65535 x 65535", SL_ERROR_UNSUPPORTED},
               {2000000000, 2, "2000000000 x 2", SL_ERROR_UNSUPPORTED},
               {65536, 1, "65536 x 1", SL_ERROR_UNSUPPORTED},
               {20000, 5001, "20000 x 5001", SL_ERROR_UNSUPPORTED},
               {0, 5, "PNG", SL_ERROR_FORMAT},
               {2, 2, "PNG", SL_ERROR_FORMAT}};
  for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
    size_t n_bytes;
    uint8_t *bytes = make_bomb(bombs[i].width_px, bombs[i].height_px, &n_bytes);
    expect_decode_error(bytes, n_bytes, bombs[i].status, bombs[i].part);
    free(bytes);
  }
  size_t n_short; /* an optional chunk that claims 2 GB must not get them */
  uint8_t *greedy = read_golden("one.png", &n_short);
  memcpy(greedy + 33, "\x7a\0\0\0eXIf", 8);
  expect_decode_error(greedy, n_short, SL_ERROR_FORMAT, "truncated");
  free(greedy);
  expect_decode_error("", 0, SL_ERROR_FORMAT, "empty file");
  expect_decode_error("x", ((size_t)64 << 20) + 1, SL_ERROR_UNSUPPORTED, "67108864");
  expect_decode_error("hello, world", 12, SL_ERROR_UNSUPPORTED, "68 65 6c 6c 6f 2c 20 77");
  expect_decode_error("\x89PNG", 4, SL_ERROR_UNSUPPORTED, "89 50 4e 47");
  expect_decode_error("GIF89a", 6, SL_ERROR_UNSUPPORTED, "a GIF");
  expect_decode_error("P6 70000 1 255\n", 15, SL_ERROR_UNSUPPORTED, "70000 x 1");
  expect_decode_error("P6 60000 60000 255\n", 19, SL_ERROR_UNSUPPORTED, "60000 x 60000");
  sl_rgb image;
  assert_int_equal(sl_rgb_load(&image, in_folder("absent.png"), true), SL_ERROR_FILE);
  assert_message("absent.png");
  write_file("empty.png", "");
  assert_int_equal(sl_rgb_load(&image, in_folder("empty.png"), true), SL_ERROR_FORMAT);
  assert_message("empty.png: empty file");
}

static void test_ppm(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t n_bytes;
    uint8_t red[3];
  } good[] = {
      {"P5 3 1 255\n\0\1\xff", 14, {0, 1, 255}},
      {"P5\n#c\n3 #x\n 1\t255\r\3\4\5", 22, {3, 4, 5}},
      {"P5 3 1 100\n\0\x32\x65", 14, {0, 128, 255}}, /* 50 / 100 to even; 101 / 100 clipped */
      {"P5 3 1 15\n\0\3\x8", 13, {0, 51, 136}},
      {"P5 3 1 65535\n\0\xc8\1\0\xff\xff", 19, {200, 255, 255}}, /* Pillow's mode I clips */
      {"P5 3 1 1000\n\0\0\0\1\0\2", 18, {0, 66, 131}},           /* 1 / 1000 of 65535, then clipped */
      {"P6 3 1 255\n\1..\2..\3..trailing", 28, {1, 2, 3}},
      {"P6 3 1 1000\n\0\0....\1\xf4....\3\xe8....", 30, {0, 128, 255}},
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    sl_rgb image;
    assert_ok(sl_rgb_decode(&image, good[i].bytes, good[i].n_bytes, "x.ppm", true));
    assert_int_equal(image.width_px, 3);
    assert_int_equal(image.height_px, 1);
    for (int x = 0; x < 3; x++)
      if (image.data[3 * x] != good[i].red[x])
        fail_msg("%zu: pixel %d: expected %d, found %d", i, x, good[i].red[x], image.data[3 * x]);
    sl_rgb_dispose(&image);
  }
  static const struct {
    const char *text, *part;
  } bad[] = {{"P6 2 2 255\n123", "expected 12 bytes of pixels, found 3"},
             {"P6", "width"},
             {"P6x1 1 255\n...", "byte 2"},
             {"P6 2", "width"},
             {"P6 -2 2 255\n", "width"},
             {"P6 2 0 255\n", "2 x 0"},
             {"P5 1 1 0\n.", "maximum"},
             {"P5 1 1 65536\n..", "maximum"},
             {"P5 1 1 255", "maximum"},
             {"P5 1234567890 1 255\n", "digits"},
             {"P5 2x 1 255\n..", "found byte 0x78"},
             {"P5 # only a comment", "width"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    expect_decode_error(bad[i].text, strlen(bad[i].text), SL_ERROR_FORMAT, bad[i].part);
}

/* ---- orientation ---- */

/* Where the upright picture's (x, y) comes from, as EXIF words it: which side of the scene row 0 and column 0 are. */
static void source_px(int orientation, int w, int h, int x, int y, int *sx, int *sy) {
  const int xs[] = {0, x, w - 1 - x, w - 1 - x, x, y, y, w - 1 - y, w - 1 - y};
  const int ys[] = {0, y, y, h - 1 - y, h - 1 - y, x, h - 1 - x, h - 1 - x, x};
  *sx = xs[orientation];
  *sy = ys[orientation];
}

static void check_upright(const uint8_t *bytes, size_t n_bytes, int orientation, const char *what) {
  sl_rgb stored, upright;
  assert_ok(sl_rgb_decode(&stored, bytes, n_bytes, what, false));
  assert_ok(sl_rgb_decode(&upright, bytes, n_bytes, what, true));
  if (orientation < 1 || orientation > 8) orientation = 1;
  assert_int_equal(upright.width_px, orientation > 4 ? stored.height_px : stored.width_px);
  assert_int_equal(upright.height_px, orientation > 4 ? stored.width_px : stored.height_px);
  for (int y = 0; y < upright.height_px; y++)
    for (int x = 0; x < upright.width_px; x++) {
      int sx, sy;
      source_px(orientation, stored.width_px, stored.height_px, x, y, &sx, &sy);
      if (memcmp(upright.data + 3 * (y * upright.width_px + x), stored.data + 3 * (sy * stored.width_px + sx), 3) != 0)
        fail_msg("%s, orientation %d: pixel %d, %d is not the stored %d, %d", what, orientation, x, y, sx, sy);
    }
  sl_rgb_dispose(&stored);
  sl_rgb_dispose(&upright);
}

/* The TIFF block's orientation entry, either byte order; fails when there is none. */
static uint8_t *find_orientation_value(uint8_t *bytes, size_t n_bytes) {
  for (size_t i = 0; i + 12 <= n_bytes; i++) {
    if (memcmp(bytes + i, "\x12\x01\x03\x00\x01\x00\x00\x00", 8) == 0) return bytes + i + 8;
    if (memcmp(bytes + i, "\x01\x12\x00\x03\x00\x00\x00\x01", 8) == 0) return bytes + i + 9;
  }
  fail_msg("no orientation entry");
  return NULL;
}

static void test_orientation_jpeg(void **state) {
  (void)state;
  size_t n_bytes;
  uint8_t *bytes = read_golden("exif6.jpg", &n_bytes), *value = find_orientation_value(bytes, n_bytes);
  for (int orientation = 0; orientation <= 10; orientation++) {
    *value = (uint8_t)orientation;
    check_upright(bytes, n_bytes, orientation, "exif6.jpg");
  }
  free(bytes);
}

static void test_orientation_png(void **state) {
  (void)state;
  size_t n_bytes, at = 8;
  uint8_t *bytes = read_golden("exif3.png", &n_bytes);
  while (memcmp(bytes + at + 4, "eXIf", 4) != 0) {
    at += 12 + (size_t)(bytes[at + 2] << 8 | bytes[at + 3]); /* the chunks before it are short */
    assert_true(at + 12 < n_bytes);
  }
  size_t length = (size_t)(bytes[at + 2] << 8 | bytes[at + 3]);
  uint8_t *value = find_orientation_value(bytes + at, length + 8);
  for (int orientation = 0; orientation <= 9; orientation++) {
    *value = (uint8_t)orientation;
    put_be32(bytes + at + 8 + length, crc32_of(bytes + at + 4, length + 4));
    check_upright(bytes, n_bytes, orientation, "exif3.png");
  }
  free(bytes);
}

/* lossless.webp (36 x 44) in the extended container, with an EXIF chunk. */
static uint8_t *make_webp(const uint8_t *exif, size_t n_exif, uint8_t flags, size_t *n_bytes) {
  size_t n_plain, n_pad = n_exif & 1;
  uint8_t *plain = read_golden("lossless.webp", &n_plain);
  *n_bytes = n_plain + 18 + 8 + n_exif + n_pad;
  uint8_t *bytes = calloc(*n_bytes, 1), *at = bytes;
  assert_non_null(bytes);
  memcpy(at, "RIFF\0\0\0\0WEBPVP8X\xa\0\0\0", 20);
  bytes[4] = (uint8_t)(*n_bytes - 8);
  bytes[5] = (uint8_t)((*n_bytes - 8) >> 8);
  bytes[20] = flags;
  bytes[24] = 36 - 1;
  bytes[27] = 44 - 1;
  memcpy(bytes + 30, plain + 12, n_plain - 12);
  at = bytes + 30 + n_plain - 12;
  memcpy(at, "EXIF", 4);
  at[4] = (uint8_t)n_exif;
  memcpy(at + 8, exif, n_exif);
  free(plain);
  return bytes;
}

static void test_orientation_webp(void **state) {
  (void)state;
  uint8_t exif[] = "Exif\0\0MM\0*\0\0\0\x8\0\2\x01\x0f\0\3\0\0\0\1\0\5\0\0\x01\x12\0\3\0\0\0\1\0\6\0\0";
  size_t n_bytes;
  for (int orientation = 1; orientation <= 8; orientation++) {
    exif[sizeof exif - 4] = (uint8_t)orientation;
    uint8_t *bytes = make_webp(exif, sizeof exif - 1, 0x08, &n_bytes);
    check_upright(bytes, n_bytes, orientation, "exif.webp");
    free(bytes);
  }
  for (size_t n = 0; n + 13 < sizeof exif; n++) { /* cut inside the directory: upright, not an error */
    uint8_t *bytes = make_webp(exif, n, 0x08, &n_bytes);
    check_upright(bytes, n_bytes, 1, "cut exif.webp");
    free(bytes);
  }
  uint8_t *whole = make_webp(exif, sizeof exif - 1, 0x08, &n_bytes); /* all pixels there, orientation cut off */
  for (size_t n = n_bytes - sizeof exif - 8; n < n_bytes; n++)
    expect_decode_error(whole, n, SL_ERROR_FORMAT, "truncated");
  free(whole);
  uint8_t *animated = make_webp(exif, 8, 0x02, &n_bytes);
  expect_decode_error(animated, n_bytes, SL_ERROR_UNSUPPORTED, "animation");
  free(animated);
}

/* `n` bytes put into a picture's at `at`, in a new buffer. */
static uint8_t *insert(const uint8_t *bytes, size_t n_bytes, size_t at, const uint8_t *more, size_t n) {
  uint8_t *out = malloc(n_bytes + n);
  assert_non_null(out);
  memcpy(out, bytes, at);
  memcpy(out + at, more, n);
  memcpy(out + at + n, bytes + at, n_bytes - at);
  return out;
}

/* XMP counts where EXIF tells no orientation, in both of its spellings; EXIF's goes first. */
static void test_orientation_xmp(void **state) {
  (void)state;
  static const char *const spellings[] = {"<rdf:Description tiff:Orientation=\"%d\"/>", "<tiff:Orientation>%d</tiff:Orientation>",
                                          "<tiff:Orientation=x tiff:Orientation=\"%d\"/>"};
  size_t n_jpeg, n_png, n_exif;
  uint8_t *jpeg = read_golden("444.jpg", &n_jpeg), *png = read_golden("odd.png", &n_png);
  uint8_t *exif = read_golden("exif6.jpg", &n_exif);
  for (int k = 0; k < 3; k++)
    for (int orientation = 0; orientation <= 9; orientation++) {
      char text[80];
      const int n_text = snprintf(text, sizeof text, spellings[k], orientation);
      uint8_t segment[160] = {0xff, 0xe1}, chunk[160] = {0}, *made;
      const size_t n_segment = 4 + 29 + (size_t)n_text, n_chunk = 12 + 22 + (size_t)n_text;
      segment[3] = (uint8_t)(n_segment - 2);
      memcpy(segment + 4, "http://ns.adobe.com/xap/1.0/", 29);
      memcpy(segment + 33, text, (size_t)n_text);
      made = insert(jpeg, n_jpeg, 2, segment, n_segment);
      check_upright(made, n_jpeg + n_segment, orientation, "xmp.jpg");
      free(made);
      made = insert(exif, n_exif, 2, segment, n_segment);
      check_upright(made, n_exif + n_segment, 6, "exif and xmp.jpg");
      free(made);
      put_be32(chunk, (uint32_t)n_chunk - 12);
      memcpy(chunk + 4, "iTXtXML:com.adobe.xmp\0\0\0\0\0", 26);
      memcpy(chunk + 30, text, (size_t)n_text);
      put_be32(chunk + n_chunk - 4, crc32_of(chunk + 4, n_chunk - 8));
      made = insert(png, n_png, 33, chunk, n_chunk); /* behind IHDR */
      check_upright(made, n_png + n_chunk, orientation, "xmp.png");
      free(made);
      size_t n_webp;
      made = make_webp((const uint8_t *)text, (size_t)n_text, 0x04, &n_webp);
      memcpy(made + n_webp - (size_t)n_text - (size_t)(n_text & 1) - 8, "XMP ", 4);
      check_upright(made, n_webp, orientation, "xmp.webp");
      free(made);
    }
  free(jpeg);
  free(png);
  free(exif);
}

/* ---- resizing, writing, masks ---- */

static void test_resize(void **state) {
  (void)state;
  sl_rgb image = make_rgb(9, 40), same, found;
  for (sl_filter filter = SL_FILTER_NEAREST; filter <= SL_FILTER_LANCZOS; filter++) {
    assert_ok(sl_rgb_resize(&same, &image, 9, 40, filter));
    assert_rgb(&same, &image, 0, "same size");
    sl_rgb_dispose(&same);
  }
  /* 40 to 10 rows, 9 to 5 columns: rows shrink by more than twice as much, so the vertical pass comes first. 40 to 32
   * does not. Doing the passes one at a time shows the order. */
  static const int heights[] = {10, 32};
  for (int i = 0; i < 2; i++) {
    sl_rgb middle, expected;
    bool down_first = i == 0;
    assert_ok(sl_rgb_resize(&middle, &image, down_first ? 9 : 5, down_first ? heights[i] : 40, SL_FILTER_BICUBIC));
    assert_ok(sl_rgb_resize(&expected, &middle, 5, heights[i], SL_FILTER_BICUBIC));
    assert_ok(sl_rgb_resize(&found, &image, 5, heights[i], SL_FILTER_BICUBIC));
    assert_rgb(&found, &expected, 0, "order of passes");
    sl_rgb_dispose(&middle);
    sl_rgb_dispose(&expected);
    sl_rgb_dispose(&found);
  }
  assert_int_equal(sl_rgb_resize(&found, &image, 0, 4, SL_FILTER_BICUBIC), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_rgb_resize(&found, &image, 4, -1, SL_FILTER_NEAREST), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_rgb_resize(&found, &image, 4, 4, (sl_filter)9), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_rgb_resize(&found, &image, 60000, 60000, SL_FILTER_NEAREST), SL_ERROR_UNSUPPORTED);
  sl_rgb_dispose(&image);
}

static void test_png_write(void **state) {
  (void)state;
  uint8_t data[4 * 3 * 4];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 37 + 5);
  static const int channels[] = {1, 3, 4};
  for (int k = 0; k < 3; k++) {
    int n_channel = channels[k];
    sl_rgb image;
    assert_ok(sl_png_write(in_folder("out.png"), data, 4, 3, n_channel));
    assert_ok(sl_rgb_load(&image, in_folder("out.png"), true));
    assert_true(image.width_px == 4 && image.height_px == 3);
    for (int px = 0; px < 12; px++)
      for (int c = 0; c < 3; c++)
        assert_int_equal(image.data[3 * px + c], data[px * n_channel + (n_channel == 1 ? 0 : c)]);
    sl_rgb_dispose(&image);
  }
  uint8_t *bytes;
  size_t n_bytes;
  assert_int_equal(sl_png_encode(data, 4, 3, 2, &bytes, &n_bytes), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_png_encode(data, 0, 3, 3, &bytes, &n_bytes), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_png_encode(data, 4, 70000, 3, &bytes, &n_bytes), SL_ERROR_ARGUMENT);
  assert_null(bytes);
  assert_int_equal(sl_png_write("/nonexistent/folder/out.png", data, 4, 3, 3), SL_ERROR_FILE);
  assert_message("/nonexistent/folder/out.png");
}

static void test_mask(void **state) {
  (void)state;
  static const uint8_t data[] = {0, 0, 0, 0, 0, 1, 255, 255, 255, 7, 0, 0};
  static const uint8_t expected[] = {0, 255, 255, 255};
  sl_grey mask;
  assert_ok(sl_png_write(in_folder("mask.png"), data, 2, 2, 3));
  assert_ok(sl_mask_load(&mask, in_folder("mask.png")));
  assert_true(mask.width_px == 2 && mask.height_px == 2);
  assert_memory_equal(mask.data, expected, 4);
  sl_grey_dispose(&mask);
  assert_int_equal(sl_mask_load(&mask, in_folder("absent.png")), SL_ERROR_FILE);
}

/* ---- every allocation failing once ---- */

static sl_status load_one(const void *name) {
  sl_rgb image;
  char path[512];
  snprintf(path, sizeof path, GOLDEN "%s", (const char *)name);
  sl_status status = sl_rgb_load(&image, path, true);
  if (status != SL_OK) assert_null(image.data);
  sl_rgb_dispose(&image);
  return status;
}

static sl_status mask_one(const void *name) {
  sl_grey mask;
  char path[512];
  snprintf(path, sizeof path, GOLDEN "%s", (const char *)name);
  sl_status status = sl_mask_load(&mask, path);
  sl_grey_dispose(&mask);
  return status;
}

static sl_status resize_one(const void *size) {
  const int *s = size;
  sl_rgb image = {7, 31, (uint8_t[7 * 31 * 3]){0}}, out;
  sl_status status = sl_rgb_resize(&out, &image, s[0], s[1], (sl_filter)s[2]);
  sl_rgb_dispose(&out);
  return status;
}

static sl_status write_one(const void *unused) {
  (void)unused;
  return sl_png_write(in_folder("out.png"), (uint8_t[90 * 90 * 3]){0}, 90, 90, 3);
}

static void test_memory(void **state) {
  (void)state;
  sweep(load_one, "exif6.jpg", 4);
  sweep(load_one, "cmyk.jpg", 4);
  sweep(load_one, "exif3.png", 4);
  sweep(load_one, "adam7.png", 5);
  sweep(load_one, "palette.png", 5);
  sweep(load_one, "lossless.webp", 2);
  sweep(load_one, "plain.ppm", 2);
  sweep(mask_one, "plain.ppm", 3);
  sweep(resize_one, (const int[]){5, 9, SL_FILTER_BICUBIC}, 6);
  sweep(resize_one, (const int[]){5, 60, SL_FILTER_LANCZOS}, 6);
  sweep(resize_one, (const int[]){5, 60, SL_FILTER_NEAREST}, 3);
  sweep(write_one, NULL, 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_golden_decode),
      cmocka_unit_test(test_golden_resize),
      cmocka_unit_test(test_truncated),
      cmocka_unit_test(test_flipped),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_ppm),
      cmocka_unit_test(test_orientation_jpeg),
      cmocka_unit_test(test_orientation_png),
      cmocka_unit_test(test_orientation_webp),
      cmocka_unit_test(test_orientation_xmp),
      cmocka_unit_test(test_resize),
      cmocka_unit_test(test_png_write),
      cmocka_unit_test(test_mask),
      cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
