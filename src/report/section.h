/* The report's sections. A section is one row here and one script in assets/: the script adds
 * `sl.view("<name>", function (element) {...})`, the row says which results it draws. A later analysis adds both and
 * touches nothing else. */
#ifndef SL_REPORT_SECTION_H
#define SL_REPORT_SECTION_H

#define SL_MAX_SECTION_RESULT 24

typedef struct sl_section {
  const char *name;   /* of the view, and the anchor in the page */
  const char *title;  /* heading, asks what the section answers; "" = no heading */
  const char *script; /* embedded source */
  const char *needs[SL_MAX_SECTION_RESULT]; /* without any of these results the section is left out */
  const char *takes[SL_MAX_SECTION_RESULT]; /* drawn when present */
  const char *maps[SL_MAX_SECTION_RESULT];  /* drawn when present; pictures, so 16 bits a value are enough */
} sl_section;

extern const sl_section sl_sections[];
extern const int sl_section_count;

/* Those of a study's page (study_section.c); a view that finds nothing to draw takes its section away. */
extern const sl_section sl_study_sections[];
extern const int sl_study_section_count;

/* Those of an evaluation's page (eval_section.c). */
extern const sl_section sl_eval_sections[];
extern const int sl_eval_section_count;

#endif
