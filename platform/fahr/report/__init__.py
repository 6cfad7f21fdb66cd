"""Results as pictures and pages. It knows results, not how they were made."""
