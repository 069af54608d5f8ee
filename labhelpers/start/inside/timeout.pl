while (@ARGV and $ARGV[0] =~ /^-/) { shift =~ /^-[ks]$/ and shift; }
my $limit = seconds(shift);
exec @ARGV if $limit <= 0;
my $child = fork;
if (!$child) { exec @ARGV or exit 127; }
if (!fork) { select undef, undef, undef, $limit; kill "KILL", $child; exit; }
waitpid $child, 0;
exit($? >> 8 || 124);
