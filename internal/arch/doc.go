// Package arch holds no code: its tests hold the tree to docs/architecture.md.
// That page's table says what each package is and what it must not import, and
// is read by the tests; where the page and the code disagree, one of them is
// mended in the same commit.
//
//   - imports_test.go: who may know whom, directly or through others
//   - pure_test.go: packages that must be functions of their input alone
//   - size_test.go: package docs, and how long files and functions may be
package arch
