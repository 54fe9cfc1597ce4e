// Command mca says on paper how close the inner loops of kernels/arm64 are to what
// the floating-point pipes of Arm cores can take, where no such core is at hand. It
// writes mca.md; README.md says how to read it.
//
//	bench/mca/run [-results DIR]
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	dir := flag.String("results", filepath.Join("bench", "results"), "`folder` for mca.md")
	work := flag.Int("work", -1, "do the `i`-th of the workloads whose instructions are counted, and nothing else")
	llvm := flag.String("llvm", "", "version `suffix` of llvm-mca and llvm-objdump, as -19")
	plugin := flag.String("plugin", "", "the compiled plugin/count.c; none: instructions are not counted")
	flag.Parse()
	if *work >= 0 {
		workloads[*work].run()
		return
	}
	if err := run(*dir, *llvm, *plugin); err != nil {
		fmt.Fprintln(os.Stderr, "mca:", err)
		os.Exit(1)
	}
}

func run(dir, llvm, plugin string) error {
	test, err := os.CreateTemp("", "mca-*.test")
	if err != nil {
		return err
	}
	test.Close()
	defer os.Remove(test.Name())
	build := exec.Command("go", "test", "-c", "-o", test.Name(), "./kernels")
	build.Env = append(os.Environ(), "GOARCH=arm64", "GOOS=linux", "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		return err
	}
	text, err := output(exec.Command("llvm-objdump"+llvm, "-d", "-l", "--no-show-raw-insn", test.Name()))
	if err != nil {
		return err
	}
	loops, err := findLoops(text)
	if err != nil {
		return err
	}
	version, err := output(exec.Command("llvm-mca"+llvm, "--version"))
	if err != nil {
		return err
	}
	var w strings.Builder
	fmt.Fprintf(&w, "# Inner loops on arm64, on paper\n\nWritten by `bench/mca/run`; [how to read it](../mca/README.md). %s.\n", strings.TrimSpace(regexp.MustCompile(`.*LLVM version \S+`).FindString(string(version))))
	if err := simulated(&w, "llvm-mca"+llvm, loops); err != nil {
		return err
	}
	counted(&w, loops)
	if plugin != "" {
		if err := executed(&w, plugin); err != nil {
			return err
		}
	}
	fmt.Print(w.String())
	return os.WriteFile(filepath.Join(dir, "mca.md"), []byte(w.String()), 0o644)
}

// output runs a command and returns what it prints.
func output(c *exec.Cmd) ([]byte, error) {
	var errors bytes.Buffer
	c.Stderr = &errors
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", c, err, errors.Bytes())
	}
	return out, nil
}

// instruction is a line of the disassembly.
type instruction struct {
	at, target uint64 // target of a branch, or 0
	text       string // mnemonic, operands; of a branch without its target
	line       int
}

// loop is an inner loop: from the target of a branch backwards to the branch.
type loop struct {
	name string // function, label
	body []instruction
	use  use
}

var (
	functionLine    = regexp.MustCompile(`^[0-9a-f]+ <.*/kernels/arm64\.(\w+?)(\.abi0)?>:$`)
	sourceLine      = regexp.MustCompile(`^; (.*\.s):(\d+)$`)
	instructionLine = regexp.MustCompile(`^\s*([0-9a-f]+):\s+(\S.*)$`)
	branchLine      = regexp.MustCompile(`^(b\.\w+|b|cbn?z|tbn?z)\t(.*?)0x([0-9a-f]+) <`)
	labelLine       = regexp.MustCompile(`^(\w+):`)
)

// findLoops returns the hot loops of the functions of kernels/arm64: those whose label
// in the source begins with "loop" and which do not take single elements.
func findLoops(disassembly []byte) ([]*loop, error) {
	var loops []*loop
	labels := map[string][]string{} // of a file: the label above each line
	function, file, line := "", "", 0
	var body []instruction
	end := func() {
		for i, branch := range body {
			first := slices.IndexFunc(body, func(in instruction) bool { return in.at == branch.target })
			if branch.target == 0 || first < 0 || first > i {
				continue
			}
			inner := body[first : i+1]
			backward := func(in instruction) bool { return in.target != 0 && in.target <= in.at }
			if slices.ContainsFunc(inner[:len(inner)-1], backward) {
				continue
			}
			label := labels[file][inner[0].line]
			if strings.HasPrefix(label, "loop") {
				l := &loop{name: strings.TrimSuffix(function+" "+strings.TrimPrefix(label, "loop"), " "), body: inner}
				for _, in := range inner {
					l.use.add(in.text)
				}
				if l.use.single == 0 || l.use.single < l.use.load+l.use.scalar+l.use.replicate {
					loops = append(loops, l)
				}
			}
		}
		function, body = "", nil
	}
	for text := range strings.Lines(string(disassembly)) {
		text = strings.TrimRight(text, "\n")
		if m := functionLine.FindStringSubmatch(text); m != nil {
			end()
			function = m[1]
		} else if text == "" {
			end()
		}
		if function == "" {
			continue
		}
		if m := sourceLine.FindStringSubmatch(text); m != nil {
			file = m[1]
			line, _ = strconv.Atoi(m[2])
			if labels[file] == nil {
				source, err := os.ReadFile(file)
				if err != nil {
					return nil, err
				}
				above, label := []string{""}, ""
				for s := range strings.Lines(string(source)) {
					if l := labelLine.FindStringSubmatch(s); l != nil {
						label = l[1]
					}
					above = append(above, label)
				}
				labels[file] = above
			}
		} else if m := instructionLine.FindStringSubmatch(text); m != nil {
			in := instruction{text: m[2], line: line}
			in.at, _ = strconv.ParseUint(m[1], 16, 64)
			if b := branchLine.FindStringSubmatch(m[2]); b != nil {
				in.text = b[1] + "\t" + b[2]
				in.target, _ = strconv.ParseUint(b[3], 16, 64)
			}
			body = append(body, in)
		}
	}
	end()
	if len(loops) == 0 {
		return nil, fmt.Errorf("no loops found")
	}
	return loops, nil
}

// use counts what a loop's instructions need.
type use struct {
	instructions, integer int
	vector, fma           int // of the floating-point and vector pipes; of these multiplications and multiply-adds
	shift, divide         int // of vector: those of one pipe only
	load, store           int // vector registers loaded and stored, 16 bytes each
	scalar, replicate     int // loads of at most 8 bytes into vector registers, and into all lanes (of load neither)
	single                int // of scalar: of 4 bytes
	insert                int // of vector: from a general register into a lane
}

var (
	vectorOperand = regexp.MustCompile(`\b[vqds](\d+)\b`)
	insertion     = regexp.MustCompile(`^(mov|ins)\tv\d+\.\w\[\d\], [wx]\d+$`)
)

func (u *use) add(text string) {
	name, operands, _ := strings.Cut(text, "\t")
	u.instructions++
	address := strings.IndexByte(operands, '[')
	registers := operands
	if address >= 0 && (strings.HasPrefix(name, "ld") || strings.HasPrefix(name, "st")) {
		registers = operands[:address]
	}
	n := len(vectorOperand.FindAllString(registers, -1))
	switch {
	case n == 0:
		u.integer++
	case strings.HasPrefix(name, "ld1r"):
		u.replicate++
	case strings.HasPrefix(name, "ld") && strings.ContainsAny(registers, "qv"):
		u.load += n
	case strings.HasPrefix(name, "ld"):
		u.scalar += n
		if strings.Contains(registers, "s") {
			u.single += n
		}
	case strings.HasPrefix(name, "st"):
		u.store += n
	default:
		u.vector++
		switch {
		case strings.HasPrefix(name, "fmla"), strings.HasPrefix(name, "fmls"), strings.HasPrefix(name, "fmul"):
			u.fma++
		case insertion.MatchString(text):
			u.insert++
		case strings.HasPrefix(name, "fdiv"):
			u.divide++
		case strings.Contains(name, "sh") || name == "sri" || name == "sli":
			u.shift++
		}
	}
}

// cores are the CPUs that LLVM is asked about.
var cores = []string{"cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76", "cortex-a78", "cortex-a510", "cortex-x1",
	"cortex-x2", "neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2", "ampere1", "apple-m1", "apple-m4"}

// report is what llvm-mca -json prints.
type report struct {
	CodeRegions []struct {
		Name        string
		SummaryView struct {
			Iterations, TotalCycles int
		}
	}
	TargetInfo struct {
		Resources []string
	}
}

// simulated writes what llvm-mca makes of the loops on CPUs with a scheduling model
// of their own, and which model the others borrow.
func simulated(w *strings.Builder, mca string, loops []*loop) error {
	var source strings.Builder
	for i, l := range loops {
		fmt.Fprintf(&source, "# LLVM-MCA-BEGIN %d\n.L%d:\n", i, i)
		for _, in := range l.body {
			fmt.Fprint(&source, in.text)
			if in.target != 0 {
				fmt.Fprintf(&source, ".L%d", i)
			}
			fmt.Fprintln(&source)
		}
		fmt.Fprintf(&source, "# LLVM-MCA-END %d\n", i)
	}
	const chains = 16 // of multiply-adds, as many as hide the latency of four pipes
	fmt.Fprint(&source, "# LLVM-MCA-BEGIN peak\n")
	for i := range chains {
		fmt.Fprintf(&source, "fmla v%d.4s, v30.4s, v31.4s\n", i)
	}
	fmt.Fprint(&source, "# LLVM-MCA-END peak\n")
	cycles := map[string][]float64{} // of the loops, and of the peak
	var own []string
	fmt.Fprint(w, "\n## Scheduling models\n| -mcpu | model that llvm-mca uses | counted |\n| --- | --- | --- |\n")
	for _, c := range cores {
		command := exec.Command(mca, "-mtriple=aarch64-linux-gnu", "-mcpu="+c, "-iterations=200", "--all-views=false", "--summary-view", "--json", "-")
		command.Stdin = strings.NewReader(source.String())
		out, err := output(command)
		if err != nil {
			return err
		}
		var r report
		if err := json.Unmarshal(out, &r); err != nil {
			return fmt.Errorf("%s for %s: %w", mca, c, err)
		}
		if len(r.CodeRegions) != len(loops)+1 || len(r.TargetInfo.Resources) == 0 {
			return fmt.Errorf("%s for %s reports %d of %d loops", mca, c, len(r.CodeRegions), len(loops)+1)
		}
		// Resources are named after their model, as N1UnitV.
		model, _, _ := strings.Cut(r.TargetInfo.Resources[0], "Unit")
		counted := "no"
		if strings.HasSuffix(strings.ReplaceAll(c, "-", ""), strings.ToLower(model)) {
			counted = "yes"
			own = append(own, c)
			for _, region := range r.CodeRegions {
				cycles[c] = append(cycles[c], float64(region.SummaryView.TotalCycles)/float64(region.SummaryView.Iterations))
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", c, model, counted)
	}
	fmt.Fprint(w, "\n## Cycles of an iteration by llvm-mca\nIn brackets the share of the floating-point pipes' time that is used.\n\n| loop | instructions | vector | of these multiply-adds |")
	rule := "| --- | --- | --- | --- |"
	for _, c := range own {
		fmt.Fprintf(w, " %s |", c)
		rule += " --- |"
	}
	fmt.Fprintf(w, "\n%s\n", rule)
	for i, l := range loops {
		fmt.Fprintf(w, "| %s | %d | %d | %d |", l.name, l.use.instructions, l.use.vector, l.use.fma)
		for _, c := range own {
			n, peak := cycles[c][i], cycles[c][len(loops)]/chains
			fmt.Fprintf(w, " %.1f (%.0f %%) |", n, 100*float64(l.use.vector)*peak/n)
		}
		fmt.Fprintln(w)
	}
	return nil
}

// limit is a resource of a core and how many cycles of it a loop needs.
type limit struct {
	name   string
	cycles func(u use) float64
}

// counts are the cores whose pipes are counted by their vendors' optimisation guides
// instead. Latencies are left out: these cores reorder some hundred instructions, or
// the loops have chains enough.
var counts = []struct {
	name   string
	limits []limit
}{
	// Cortex-A76 and A77, Neoverse N1: two vector pipes, of which shifts use one and
	// which stores also pass, two load and store pipes, four instructions decoded; a
	// division of four floats keeps one pipe ten cycles busy.
	{"cortex-a76, neoverse-n1", []limit{
		{"pipes", func(u use) float64 {
			return max(float64(u.vector+u.store+u.replicate)/2, float64(u.shift), float64(10*u.divide))
		}},
		{"load/store", func(u use) float64 { return float64(u.load+u.scalar+u.replicate+u.store) / 2 }},
		{"issue", func(u use) float64 { return float64(u.instructions) / 4 }},
	}},
	// Cortex-A78: a third load pipe, stores have a data path of their own, six
	// operations are dispatched.
	{"cortex-a78", []limit{
		{"pipes", func(u use) float64 {
			return max(float64(u.vector+u.replicate)/2, float64(u.shift), float64(10*u.divide))
		}},
		{"load/store", func(u use) float64 {
			return max(float64(u.load+u.scalar+u.replicate)/2, float64(u.store)/2)
		}},
		{"issue", func(u use) float64 { return float64(u.instructions) / 6 }},
	}},
	// Apple's Firestorm (M1), of which there is no guide: figures of measurements
	// (dougallj.github.io/applecpu): four vector pipes, three load pipes, two store
	// pipes, eight instructions decoded.
	{"apple-m1", []limit{
		{"pipes", func(u use) float64 { return max(float64(u.vector+u.replicate)/4, float64(u.divide)) }},
		{"load/store", func(u use) float64 {
			return max(float64(u.load+u.scalar+u.replicate)/3, float64(u.store)/2)
		}},
		{"issue", func(u use) float64 { return float64(u.instructions) / 8 }},
	}},
	// Cortex-A55: two instructions a cycle, in order; both 64-bit pipes take one
	// operation on four floats a cycle, beside which an integer instruction, a load of
	// up to 64 bits or an insertion may issue; a load of 128 bits issues alone, for two
	// cycles, and a store for one. A division of four floats takes twice ten cycles.
	{"cortex-a55", inOrder(func(u use) int { return 2*u.load + u.store })},
	// Cortex-A53: there a load of 64 bits to a vector register takes a cycle alone too.
	{"cortex-a53", inOrder(func(u use) int { return 2*u.load + u.store + u.scalar + u.replicate })},
}

// inOrder are the limits of a core of which alone says how many cycles go to
// instructions that issue alone.
func inOrder(alone func(u use) int) []limit {
	pipes := func(u use) float64 { return float64(u.vector - u.insert + 19*u.divide) }
	return []limit{{"pipes", pipes}, {"issue", func(u use) float64 {
		return float64(alone(u)) + max(pipes(u), float64(u.instructions-u.load-u.store)/2)
	}}}
}

// counted writes what each of counts takes for the loops.
func counted(w *strings.Builder, loops []*loop) {
	fmt.Fprint(w, "\n## Cycles of an iteration by the pipes of the vendors' guides\nThe largest need, what it is of, and the share of the floating-point pipes' time that is then used.\n\n| loop | loads | stores |")
	rule := "| --- | --- | --- |"
	for _, c := range counts {
		fmt.Fprintf(w, " %s |", c.name)
		rule += " --- |"
	}
	fmt.Fprintf(w, "\n%s\n", rule)
	for _, l := range loops {
		fmt.Fprintf(w, "| %s | %d | %d |", l.name, l.use.load+l.use.scalar+l.use.replicate, l.use.store)
		for _, c := range counts {
			most := c.limits[0]
			for _, limit := range c.limits[1:] {
				if limit.cycles(l.use) > most.cycles(l.use) {
					most = limit
				}
			}
			n := most.cycles(l.use)
			fmt.Fprintf(w, " %.1f %s (%.0f %%) |", n, most.name, 100*c.limits[0].cycles(l.use)/n)
		}
		fmt.Fprintln(w)
	}
}
