#!/usr/bin/perl
# sleep(1) and timeout(1) of GNU coreutils, with shorter seconds
sub seconds {
    return -1 if $_[0] =~ /^inf/i;
    $_[0] =~ /^([0-9.]+)([smhd]?)$/ or exit 125;
    return $1 * { "" => 1, s => 1, m => 60, h => 3600, d => 86400 }->{$2} / SPEED;
}
