package main

import (
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/internal/certs"
)

func tlsCommand(stdio) *cobra.Command {
	ca := parent(&cobra.Command{Use: "ca", Short: "The cluster's certificate authority", Example: "  diarchy tls ca create"}, caCreateCommand())
	cert := parent(&cobra.Command{Use: "cert", Short: "Certificates of nodes and clients", Example: "  diarchy tls cert create n1"}, certCreateCommand())
	return parent(&cobra.Command{Use: "tls", Short: "Make certificates", Example: "  diarchy tls ca create\n  diarchy tls cert create n1"}, ca, cert)
}

func caCreateCommand() *cobra.Command {
	var dir, name string
	var days int
	cmd := &cobra.Command{
		Use: "create", Short: "Make a certificate authority: ca.pem and ca-key.pem",
		Long:    "Make the authority that signs every certificate of one cluster. Keep ca-key.pem\nwhere no node is: only 'tls cert create' needs it.",
		Example: "  diarchy tls ca create\n  diarchy tls ca create --dir secrets --days 3650",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if days < 1 {
				return usagef("--days %d: expected 1 or more", days)
			}
			out := caPair(dir)
			if err := certs.CreateCA(out, certs.CAOptions{Name: name, Valid: dayCount(days)}); err != nil {
				return err
			}
			return done(cmd, out, "wrote %s and %s; next: diarchy tls cert create NODE", out.Cert, out.Key)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "where to write the files")
	cmd.Flags().StringVar(&name, "name", "", "the authority's name in its certificate")
	cmd.Flags().IntVar(&days, "days", int(certs.CAValidity/dayCount(1)), "how long it is valid")
	return cmd
}

func certCreateCommand() *cobra.Command {
	var dir, role string
	var dns, ips []string
	var days int
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a certificate for a node or client: NAME.pem and NAME-key.pem",
		Long: "Make a certificate signed by the authority in --dir. A node's must carry the\nnode's name; --dns and --ip are the addresses under which clients reach it\n(without any: localhost).",
		Example: "  diarchy tls cert create n1 --dns n1.internal --ip 10.0.0.1\n" +
			"  diarchy tls cert create operator --role admin",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if days < 1 {
				return usagef("--days %d: expected 1 or more", days)
			}
			o := certs.LeafOptions{Identity: certs.Identity{Role: certs.Role(role), Name: args[0]}, DNS: dns, Valid: dayCount(days)}
			for _, s := range ips {
				ip := net.ParseIP(s)
				if ip == nil {
					return usagef("--ip %q: expected an IP address", s)
				}
				o.IPs = append(o.IPs, ip)
			}
			if filepath.Base(args[0]) != args[0] {
				return usagef("NAME %q: expected a name, not a path; --dir says where to write", args[0])
			}
			out := certs.Pair{Cert: filepath.Join(dir, args[0]+".pem"), Key: filepath.Join(dir, args[0]+"-key.pem")}
			if err := certs.CreateLeaf(caPair(dir), out, o); err != nil {
				return fmt.Errorf("%w (the authority is looked for in --dir; 'diarchy tls ca create' makes one)", err)
			}
			return done(cmd, out, "wrote %s and %s for %s", out.Cert, out.Key, o.Identity)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "where ca.pem and ca-key.pem are and the files are written")
	cmd.Flags().StringVar(&role, "role", string(certs.RoleNode), "node, client or admin")
	cmd.Flags().StringSliceVar(&dns, "dns", nil, "a host name that clients use; may be repeated")
	cmd.Flags().StringSliceVar(&ips, "ip", nil, "an address that clients use; may be repeated")
	cmd.Flags().IntVar(&days, "days", int(certs.LeafValidity/dayCount(1)), "how long it is valid")
	return cmd
}

func caPair(dir string) certs.Pair {
	return certs.Pair{Cert: filepath.Join(dir, "ca.pem"), Key: filepath.Join(dir, "ca-key.pem")}
}

func dayCount(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }
