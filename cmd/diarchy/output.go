package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func jsonOutput(cmd *cobra.Command) bool {
	o, err := cmd.Flags().GetString("output")
	return err == nil && o == "json"
}

func printJSON(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // what cannot be written cannot be reported either
}

// table prints rows under headings, or the value as JSON.
func table(cmd *cobra.Command, value any, headings []string, rows [][]string) error {
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), value)
		return nil
	}
	return writeTable(cmd.OutOrStdout(), headings, rows)
}

func writeTable(w io.Writer, headings []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(headings, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// done prints a sentence, or the value as JSON.
func done(cmd *cobra.Command, value any, format string, args ...any) error {
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), value)
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}

// orDash shows what is empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age is a duration as people read it.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "unknown"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func bytesText(n int64) string {
	switch {
	case n < 0:
		return "-"
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
