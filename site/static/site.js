// Opened from a disk, a page may not read others: results of a search then have titles only, not lines of the pages.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
